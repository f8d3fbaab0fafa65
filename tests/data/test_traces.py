"""The one trace of a row is what each comparison would make of the row by itself, and is read back as it was made (MISSION D6, D9)."""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planish.data import plain_dialogue, trace_columns
from planish.data import traces as module
from planish.data.normalise import normalised
from planish.data.parallel import uncollected
from planish.data.ragged import Ragged
from planish.data.reading import read_rows
from planish.data.shingles import Shingles, units, word_units
from planish.data.sketch import Sketched
from planish.data.table import Table
from planish.data.texts import body_text, final_answer, prompt_text
from planish.data.trace import texts_of_turns
from planish.data.trace_columns import columns_of
from planish.data.traces import Kept, Traces, traces
from planish.rows import ChatRow, LabelRow, Message, Origin, PreferenceRow, PromptCompletionRow, QuestionRow, Row, TextRow

WORDS = [
    "what",
    "is",
    "the",
    "weather",
    "IN",
    "oslo?",
    "it's",
    "",
    "\n",
    "a\u200c",
    "\u200db",
    "Σ",
    "é",
    "e\u0301",
    "ﬁne",
    "你好",
    "🙂",
    "1,000",
    "  ",
    "word " * 9,
]
TEXT = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)
ORIGIN = Origin(file="rows.jsonl", line=1, sha256="")


def _message(role: Any, content: str) -> Message:
    return Message(role=role, content=content)


ECHO = "it's what the it's"
ROWS = st.one_of(
    st.builds(lambda text, label: LabelRow(id="r", origin=ORIGIN, text=text, label=label), TEXT, TEXT),
    st.builds(lambda text: TextRow(id="r", origin=ORIGIN, text=text), TEXT),
    st.builds(lambda prompt, answer: PromptCompletionRow(id="r", origin=ORIGIN, prompt=prompt, completion=answer), TEXT, TEXT),
    st.builds(
        lambda asked, answer, documents: QuestionRow(id="r", origin=ORIGIN, question=asked, answer=answer, documents=tuple(documents)),
        TEXT,
        TEXT,
        st.lists(TEXT),
    ),
    st.builds(
        lambda turns, answer: ChatRow(id="r", origin=ORIGIN, messages=(*(_message(*turn) for turn in turns), _message("assistant", answer))),
        st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=4),
        TEXT,
    ),
    st.builds(
        lambda *said: PreferenceRow(
            id="r", origin=ORIGIN, prompt=(_message("user", said[0]),), chosen=(_message("assistant", said[1]),), rejected=(_message("assistant", said[2]),)
        ),
        TEXT,
        TEXT,
        TEXT,
    ),
)


def _holds_answer(row: Row) -> bool:
    """Whether the words of what the user says hold those of the answer in order, five at least."""
    if not isinstance(row, ChatRow | PromptCompletionRow | QuestionRow):
        return False
    asked = "\n".join(turn.content for turn in row.messages[:-1] if turn.role == "user") if isinstance(row, ChatRow) else prompt_text(row)
    prompt, answer = ([text[at : at + 4] for at in range(0, len(text), 4)] for text in (word_units(asked), word_units(final_answer(row))))
    return len(answer) >= 5 and any(prompt[at : at + len(answer)] == answer for at in range(len(prompt)))


def _rows(ragged: Ragged) -> list[bytes]:
    return [ragged.values[begin:end].tobytes() for begin, end in pairwise(ragged.starts.tolist())]


def _assert_traces(found: Traces, rows: list[Row]) -> None:
    """The columns hold of each row what its texts give by themselves; those that are likened, as signed sets."""
    prompts, bodies = list(map(prompt_text, rows)), list(map(body_text, rows))
    short = [len(word_units(prompt)) < 4 * 5 for prompt in prompts]
    digests = [hashlib.sha256(normalised(prompt).encode("utf-8", "surrogatepass")).digest()[:16] for prompt in prompts]
    assert len(found) == len(rows)
    assert [bytes(each) for each in found.prompt] == [bytes(16) if none else each for each, none in zip(digests, short, strict=True)]
    assert found.tells.tolist() == list(map(_holds_answer, rows))
    answers = [0 if isinstance(row, LabelRow) else len(final_answer(row)) for row in rows]
    assert found.sizes.tolist() == [[len(prompt), answer] for prompt, answer in zip(prompts, answers, strict=True)]
    assert _rows(found.asked) == list(map(word_units, prompts))
    assert _rows(found.body) == list(map(word_units, bodies))
    near = [b"" if none else units(prompt) for prompt, none in zip(prompts, short, strict=True)]
    for sketched, texts in ((found.whole, list(map(units, bodies))), (found.near, near)):
        alone = [Sketched.of(Shingles.of([text])) for text in texts]
        assert _rows(sketched.sets) == [each.sets.values.tobytes() for each in alone]
        assert sketched.keys.tolist() == [each.keys[0].tolist() for each in alone]
        assert sketched.sketch.tolist() == [each.sketch[0].tolist() for each in alone]


@settings(max_examples=300, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_a_trace_is_what_each_text_gives_alone(rows: list[Row]) -> None:
    _assert_traces(traces(Table.of(rows)), rows)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=4), TEXT)
@example([("assistant", ECHO)], ECHO)  # its user says nothing, so nothing of the answer
@example([("user", ""), ("user", "")], "\u200db")  # the joiner stands behind a line break
def test_plain_turns_have_the_trace_of_the_row(asked: list[tuple[str, str]], answer: str) -> None:
    said = [*asked, ("assistant", answer)]
    turns = [{"role": role, "content": text} for role, text in said]
    row = ChatRow(id="r", origin=ORIGIN, messages=tuple(_message(*turn) for turn in said))
    table, kept = Table.of([row]), Kept()
    kept.add(columns_of([texts_of_turns(turns, plain_dialogue.folded(turns))]))
    kept.of(table.spool, table.at)
    _assert_traces(traces(table), [row])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
def test_a_file_is_traced_as_it_is_read(told: list[tuple[str, str]]) -> None:
    """What is kept of each row while it is read is what the row gives by itself, also where two rows have one id."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        lines = [
            {"id": number // 2, "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
            for number, (asked, said) in enumerate(told)
        ]
        lines += [{"id": 0, "prompt": asked, "completion": said} for asked, said in told]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        rows, others = (read_rows(file, mixed=True, strict=False, compared=compared).accepted for compared in (True, False))
    assert not len(rows) or (rows.spool in module._KEPT and others.spool not in module._KEPT)
    assert len(set(rows.ids)) == len(rows)
    assert [row.id for row in rows] == rows.ids
    _assert_traces(traces(rows), list(rows))
    _assert_traces(traces(others), list(others))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=12), st.data())
def test_traces_come_back_in_the_order_of_the_table(rows: list[Row], data: st.DataObject) -> None:
    """Also those of a part of the rows in any order, before and after those of all."""
    whole = Table.of(rows)
    order = data.draw(st.permutations(range(len(rows))))
    part = Table(whole.spool, whole.at[order[: len(rows) // 2 + 1]], whole.keys)
    _assert_traces(traces(part), [rows[index] for index in order[: len(rows) // 2 + 1]])
    _assert_traces(traces(whole), rows)
    _assert_traces(traces(part), [rows[index] for index in order[: len(rows) // 2 + 1]])


def test_rows_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Table.of([TextRow(id=str(n), origin=ORIGIN, text=f"text number {n} of several") for n in range(6)])
    first = traces(rows).body
    monkeypatch.setattr(module, "texts_of", lambda row: pytest.fail("traced again"))
    assert _rows(traces(rows.where([True, False] * 3)).body) == _rows(first)[::2]
    kept = len(module._KEPT)
    del rows
    gc.collect()
    assert len(module._KEPT) < kept


def test_collection_is_what_it_was_before() -> None:
    with uncollected(), uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()


def test_many_characters_are_traced_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_columns, "_AT_ONCE", 40)
    rows: list[Row] = [TextRow(id=str(n), origin=ORIGIN, text=f"text number {n} of several, é" * (n % 4)) for n in range(9)]
    assert len(columns_of([trace_columns.Texts([row.text], 1, 0, (0, 0), None, "") for row in rows if isinstance(row, TextRow)])) > 3
    _assert_traces(traces(Table.of(rows)), rows)
