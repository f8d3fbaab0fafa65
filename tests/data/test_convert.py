"""Conversion between formats and containers (MISSION D1): equal after a round trip, or what is lost is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from planish.cli import CONVERTS_TO, app
from planish.data.contract import Refused, row_from
from planish.data.convert import convert, write
from planish.data.formats import Fault, read_records
from planish.data.reshape import REACHABLE, reshape
from planish.data.written import TARGETS
from planish.errors import InputError, RunFailed
from planish.rows import Origin, Row

ORIGIN = Origin(file="a", line=1, sha256="0" * 64)
HOME = {target.shapes[0]: to for to, target in reversed(TARGETS.items())}
"""The first format of each shape."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda text: any(mark.isalnum() for mark in text))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda item: st.lists(item, max_size=2) | st.dictionaries(TEXT, item, max_size=2),
    max_leaves=4,
)
EXTRA = st.dictionaries(
    st.sampled_from(["source", "score", "input", "label", "tools", "text", "rejected", "system", "message_columns", "shape"]), JSON, max_size=2
)


def _row(value: dict[str, Any]) -> Row:
    return row_from(value, origin=ORIGIN)


def _content(row: Row) -> dict[str, Any]:
    return row.model_dump(exclude={"id", "origin"})


@st.composite
def dialogues(draw: st.DrawFn, answered: bool = True) -> list[dict[str, Any]]:
    """A sound dialogue, with or without system text, weights, names, tool calls and results."""
    made = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for last in [False] * draw(st.integers(0, 2)) + [True]:
        made.append({"role": "user", "content": draw(TEXT)} | draw(st.sampled_from([{}, {}, {"name": "ann"}, {"mood": "calm"}])))
        if last and not answered:
            break
        if draw(st.integers(0, 3)) == 0:
            calls = [
                {"id": f"c{number}", "name": draw(TEXT), "arguments": draw(st.dictionaries(TEXT, JSON, max_size=2))}
                for number in range(draw(st.integers(1, 2)))
            ]
            made.append({"role": "assistant", "content": draw(st.sampled_from(["", "let me see"])), "tool_calls": calls})
            made += [{"role": "tool", "content": draw(TEXT), "tool_call_id": call["id"]} for call in calls]
        made.append({"role": "assistant", "content": draw(TEXT)} | draw(st.sampled_from([{}, {}, {"weight": 1}, {} if last else {"weight": 0}])))
    return made


ANSWER = TEXT.map(lambda text: [{"role": "assistant", "content": text}])
TOOLS = st.sampled_from([{}, {}, {"tools": []}])
VALUES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "chat": st.builds(lambda messages, tools: {"messages": messages} | tools, dialogues(), TOOLS),
    "prompt_completion": st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}),
    "text": st.fixed_dictionaries({"text": TEXT}),
    "label": st.fixed_dictionaries({"text": TEXT, "label": TEXT}),
    "summary": st.fixed_dictionaries({"document": TEXT, "summary": TEXT}),
    "question": st.fixed_dictionaries({"question": TEXT, "answer": TEXT, "documents": st.lists(TEXT, max_size=2)}),
    "steps": st.lists(st.tuples(TEXT, st.booleans()), min_size=1, max_size=3).map(
        lambda steps: {"prompt": "p", "completions": [step for step, _ in steps], "labels": [mark for _, mark in steps]}
    ),
    "preference": st.fixed_dictionaries({"prompt": TEXT | dialogues(answered=False), "chosen": TEXT | ANSWER, "rejected": TEXT | ANSWER}),
    "unpaired": st.fixed_dictionaries({"prompt": TEXT | dialogues(answered=False), "completion": TEXT | ANSWER, "label": st.booleans()}),
    "extraction": st.one_of(
        st.builds(lambda text, fields: {"text": text, "fields": fields}, TEXT, st.dictionaries(TEXT, JSON, max_size=2)),
        TEXT.map(lambda text: {"text": text, "entities": [{"type": "t", "start": 0, "end": len(text), "sure": 0.5}]}),
    ),
}


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row of any shape, with columns of its own, some of them named as formats name theirs."""
    shape = draw(st.sampled_from(sorted(VALUES)))
    try:
        row = _row(draw(VALUES[shape]))
    except Refused:  # chosen and rejected drawn the same
        row = _row({"text": "x"})
    (value,) = write(row.model_copy(update={"extra": row.extra | draw(EXTRA)}), HOME[row.shape]).values
    return _row(value)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows(), st.data())
def test_d1_what_a_row_does_not_say_it_lost_is_there_when_it_is_read_again(row: Row, data: st.DataObject) -> None:
    """MISSION D1, Proof: round trip equal for lossless pairs, over every format that a row of the shape is written in."""
    to = data.draw(st.sampled_from([name for name, target in TARGETS.items() if row.shape in target.shapes]))
    written = write(row, to)
    if not written.lost:
        (value,) = written.values
        assert _content(_row(json.loads(json.dumps(value)))) == _content(row)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows(), st.data())
def test_d1_a_lossless_way_to_another_shape_leads_back(row: Row, data: st.DataObject) -> None:
    """What loses nothing on the way out loses nothing on the way back, and is the row it was."""
    there = data.draw(st.sampled_from([to for to, target in TARGETS.items() if target.shapes[0] in (row.shape, *REACHABLE.get(row.shape, ()))]))
    out = write(row, there)
    if not out.lost:
        back = write(_row(out.values[0]), HOME[row.shape])
        assert back.lost == ()
        again = _row(back.values[0])
        # prompt and completion that were a dialogue on the way are one still: as messages, so that their template is not forgotten
        assert again.shape == row.shape or (row.shape, again.shape) == ("prompt_completion", "chat")
        assert _content(again) == _content(reshape(row, again.shape).rows[0])


ROUND = [
    ({"instruction": "Add", "input": "2,3", "output": "5"}, ["openai", "sharegpt", "prompt_completion", "alpaca"]),
    ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}, ["alpaca", "sharegpt", "label", "summary", "qa", "openai"]),
    ({"prompt": "p", "chosen": "a", "rejected": "b", "source": "s"}, ["openai_preference", "dpo"]),
    ({"text": "p", "label": "a", "id": "r1"}, ["prompt_completion", "openai", "qa", "label"]),
    ({"text": "p", "fields": {"a": [1, None]}}, ["openai", "extraction"]),
]


@pytest.mark.parametrize(("value", "way"), ROUND)
def test_a_row_goes_round_and_is_what_it_was(tmp_path: Path, value: dict[str, Any], way: list[str]) -> None:
    path = tmp_path / "0.jsonl"
    path.write_text(json.dumps(value) + "\n")
    for number, to in enumerate(way, start=1):
        done = convert(path, to, tmp_path / f"{number}.jsonl")
        assert (done.n_in, done.n_out, done.lost, done.dropped) == (1, 1, {}, {})
        path = tmp_path / f"{number}.jsonl"
    (record,) = read_records(path)
    assert not isinstance(record.value, Fault)
    assert _row(record.value) == _row(value)


SOUND = {
    "text": {"text": "t"},
    "kto": {"prompt": "p", "completion": "a", "label": True},
    "extraction": {"prompt": "p", "completion": '{"a": 1}'},
}
TOOL_ROW: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "assistant", "content": "a", "weight": 1, "seen": True},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}],
    "parallel_tool_calls": False,
}


def test_a_dialogue_with_tools_keeps_everything_as_openai_and_sharegpt() -> None:
    """OpenAI's own file comes back as it was written, but for the key order."""
    row = _row(TOOL_ROW)
    written = write(row, "openai")
    assert written.lost == ()
    expected = json.loads(json.dumps(TOOL_ROW))
    expected["messages"][2]["content"] = ""
    assert written.values == (expected,)
    assert write(row, "sharegpt").lost == ()


@pytest.mark.parametrize(
    ("value", "to", "lost"),
    [
        ({"messages": TOOL_ROW["messages"]}, "alpaca", "a row that alpaca has no words for 1"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a", "weight": 1}]}, "alpaca", "weight 1"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}, "text", "roles 1"),
        ({"prompt": "p", "completion": "a"}, "text", "where the answer begins 1"),
        ({"question": "q", "answer": "a", "context": "c"}, "openai", "documents 1"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "openai", "rejected 1"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "kto", "which answer was compared with which 1"),
        ({"prompt": "p", "completion": "a", "label": True}, "openai", "label 1"),
        ({"prompt": "p", "completion": "a", "label": False}, "openai", "a row whose answer is bad 1"),
        ({"prompt": "p", "completion": "a"}, "extraction", "an answer that is no JSON object or list 1"),
        ({"text": "x", "label": "a", "rejected_response": "no"}, "openai", "column rejected_response 1"),
        ({"foo": 1}, "openai", "refused: unknown_shape 1"),
    ],
)
def test_d1_what_would_be_lost_is_listed_by_count_and_refused(tmp_path: Path, value: dict[str, Any], to: str, lost: str) -> None:
    """MISSION D1: lossy conversions list the dropped fields; nothing is written without --lossy."""
    source, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    good = SOUND.get(to, {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]})
    source.write_text(json.dumps(good) + "\n" + json.dumps(value) + "\n")
    with pytest.raises(InputError, match=lost) as refused:
        convert(source, to, out)
    assert refused.value.exit_code == 2
    assert list(tmp_path.iterdir()) == [source]
    done = convert(source, to, out, lossy=True)
    assert f"{lost.rpartition(' ')[0]}" in done.lost | done.dropped
    assert len(list(read_records(out))) == done.n_out


@pytest.mark.parametrize("name", ["b.jsonl", "b.jsonl.gz", "b.json", "b.csv", "b.tsv.gz", "b.parquet"])
@pytest.mark.parametrize("to", ["openai", "sharegpt", "prompt_completion"])
def test_every_container_gives_the_rows_back(tmp_path: Path, name: str, to: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    source = tmp_path / "a.jsonl"
    plain = {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "\u2028b"}], "source": 'x,\n"y"'}
    called = {"messages": [*TOOL_ROW["messages"][:4], {"role": "assistant", "content": "a"}], "tools": TOOL_ROW["tools"], "source": "z"}
    # a prompt's answers are not trained, so a dialogue with two of them is none for prompt_completion
    values = [plain, plain if to == "prompt_completion" else called]
    source.write_text("".join(json.dumps(value) + "\n" for value in values))
    done = convert(source, to, tmp_path / name)
    assert (done.n_out, done.lost) == (2, {})
    found = [record.value for record in read_records(tmp_path / name)]
    for value, again in zip(values, found, strict=True):
        assert not isinstance(again, Fault)
        was, now = _row(value), _row(again)
        assert _content(now) | {"extra": {}} == _content(was) | {"extra": {}}
        assert now.extra["source"] == was.extra["source"]
    first = (tmp_path / name).read_bytes()
    convert(source, to, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_carriage_return_in_a_cell_of_a_table_is_read_again(tmp_path: Path, kind: str) -> None:
    """Python before 3.13 quotes a carriage return only where rows end with one; unquoted, it ends the row for every reader, this one included. Other cells stay as they are."""
    source, table, again = tmp_path / "a.jsonl", tmp_path / f"b.{kind}", tmp_path / "c.jsonl"
    texts = ["one\rtwo", "ends\r", "both\r\nof them", "a\nb", "plain"]
    source.write_text("".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in texts))
    convert(source, "label", table)
    convert(table, "label", again)
    assert [json.loads(line)["text"] for line in again.read_text().splitlines()] == texts
    assert table.read_bytes().splitlines()[-1] == f"plain{',' if kind == 'csv' else chr(9)}x".encode()


def test_a_carriage_return_outside_quotes_is_named(tmp_path: Path) -> None:
    """Another program's table with a bare one in a cell: the row is refused with what to mend. Rows that all end so have no header."""
    table = tmp_path / "a.csv"
    table.write_bytes(b"text,label\none\rtwo,x\nplain,y\n")
    first, second = (record.value for record in read_records(table))
    assert isinstance(first, Fault)
    assert first.why == "is not CSV: a carriage return stands outside quotes, and no line feed follows it"
    assert "quote a cell that holds a carriage return" in first.fix
    assert second == {"text": "plain", "label": "y"}
    table.write_bytes(b"text,label\rone,x\rtwo,y\r")
    with pytest.raises(InputError, match="end the rows with line feeds"):
        list(read_records(table))


def test_a_full_disk_is_said_of_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "p", "label": "x"}\n')

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("planish.store.objects.os.fsync", full)
    with pytest.raises(RunFailed, match=r"b\.csv: no space is left on this disk"):
        convert(source, "label", tmp_path / "b.csv")
    assert list(tmp_path.iterdir()) == [source]


def test_a_table_that_cannot_hold_a_type_says_so(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"prompt": "p", "completion": "a", "label": true}\n')
    with pytest.raises(InputError, match="the type of label 1"):
        convert(source, "kto", tmp_path / "b.csv")
    source.write_text('{"text": "p", "n": 1}\n{"text": "p", "n": "one"}\n')
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="holds values of several types"):
        convert(source, "text", tmp_path / "b.parquet")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("value", "to", "out", "why"),
    [
        ({"text": "x"}, "opnai", "b.jsonl", 'did you mean "openai"'),
        ({"text": "x"}, "text", "b.xlsx", "are not written"),
        ({"text": "x", "label": "a"}, "prm", "b.jsonl", "a label row cannot be written as prm"),
        ({"prompt": "p", "completions": ["a"], "labels": [True]}, "text", "b.jsonl", "it can be written as: prm"),
        ({"foo": 1}, "text", "b.jsonl", "refused: unknown_shape 1"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, value: dict[str, Any], to: str, out: str, why: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps(value) + "\n")
    with pytest.raises(InputError, match=why):
        convert(source, to, tmp_path / out)
    assert list(tmp_path.iterdir()) == [source]


def test_the_help_names_every_format() -> None:
    assert CONVERTS_TO.split(", ") == list(TARGETS)


def test_the_command_writes_and_counts(tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "b.json"
    source.write_text(json.dumps(TOOL_ROW) + "\n" + json.dumps({"messages": TOOL_ROW["messages"][:2] + TOOL_ROW["messages"][4:]}) + "\n")
    done = CliRunner().invoke(app, ["convert", str(source), "--to", "alpaca", "--out", str(out), "--lossy", "--json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told == {"n_in": 2, "n_out": 1, "lost": {"weight": 1}, "dropped": {"a row that alpaca has no words for": 1}}
    assert [record.value for record in read_records(out)] == [
        {"message_columns": {"3": {"seen": True}}, "instruction": "p", "input": "", "output": "a", "system": "s"}
    ]
