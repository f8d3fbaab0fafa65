"""The row contract (MISSION D2)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from planish.checks import duplicates
from planish.data.contract import TooManyMalformed, read_rows
from planish.errors import InputError
from planish.rows import ChatRow, LabelRow, PromptCompletionRow, RejectCode, TextRow

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
GOOD = {"messages": [USER, ANSWER]}


def _jsonl(folder: Path, *values: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values), encoding="utf-8")
    return path


def _code(folder: Path, value: Any, **options: Any) -> RejectCode:
    """The code of one bad row among 40 good ones (1 of 41 lines is 2.4 %, so the file passes)."""
    good = {"label": {"text": "fine", "label": "a", "g": "1"}, "chat": GOOD, "prompt_completion": {"prompt": "p", "completion": "c"}, "text": {"text": "t"}}
    reading = read_rows(_jsonl(folder, *[good[options["shape"]]] * 40, value), **options)
    (row,) = reading.rejected
    assert (row.line, reading.n_in, len(reading.accepted)) == (41, 41, 40)
    assert row.raw == (value if isinstance(value, str) else json.dumps(value))
    assert row.why
    assert row.fix
    return row.code


def test_d2_six_lines_give_one_accepted_row_five_codes_and_exit_2(tmp_path: Path) -> None:
    """MISSION D2, Ex: {good, empty reply, user only, foo, not JSON, copy} -> 1 accepted, 5 codes, exit 2.

    4 of 6 lines are malformed (67 % > 5 %), so the file is refused; its reading still has every row. The copy is found by the duplicates check:
    6 = 1 accepted + 5 rejected, each with its own code.
    """
    path = _jsonl(tmp_path, GOOD, {"messages": [USER, ANSWER | {"content": ""}]}, {"messages": [USER]}, {"foo": 1}, "not JSON", GOOD)
    with pytest.raises(TooManyMalformed, match=r"4 of 6 lines \(66.7%\) are malformed") as refused:
        read_rows(path)
    assert refused.value.exit_code == 2
    assert [problem.where for problem in refused.value.problems] == [str(path), *(f"{path}:{line}" for line in (2, 3, 4, 5))]
    reading = refused.value.reading
    reading = reading.set_aside(duplicates.check(reading.accepted))
    assert reading.counts == {
        "n_in": 6,
        "n_accepted": 1,
        "n_rejected": 5,
        "bad_json": 1,
        "duplicate": 1,
        "empty_answer": 1,
        "no_assistant_turn": 1,
        "unknown_shape": 1,
    }
    assert [(row.line, row.raw) for row in reading.rejected if row.code == RejectCode.DUPLICATE] == [(6, json.dumps(GOOD))]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"text": "x"}, RejectCode.MISSING_FIELD),
        ({"text": "x", "label": None}, RejectCode.MISSING_FIELD),
        ({"text": "x", "label": " "}, RejectCode.MISSING_FIELD),
        ({"label": "a"}, RejectCode.MISSING_FIELD),
        ({"text": "x", "label": 1}, RejectCode.WRONG_TYPE),
        ({"text": ["x"], "label": "a"}, RejectCode.WRONG_TYPE),
        ({"text": "", "label": "a"}, RejectCode.EMPTY_ANSWER),
        ({"text": "x", "label": "A"}, RejectCode.LABEL_UNKNOWN),
        ({"foo": "x"}, RejectCode.UNKNOWN_SHAPE),
        (GOOD, RejectCode.UNKNOWN_SHAPE),
        ({"text": "x", "label": "a", "entities": [{"type": "b"}]}, RejectCode.UNKNOWN_SHAPE),
        ("{", RejectCode.BAD_JSON),
        ("[1]", RejectCode.WRONG_TYPE),
    ],
)
def test_bad_label_rows(tmp_path: Path, value: Any, code: RejectCode) -> None:
    assert _code(tmp_path, value, shape="label", labels=["a", "b"]) == code


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ("hi", RejectCode.WRONG_TYPE),
        ([], RejectCode.NO_ASSISTANT_TURN),
        ([1], RejectCode.WRONG_TYPE),
        ([USER], RejectCode.NO_ASSISTANT_TURN),
        ([USER, {"role": "assistant", "content": None}], RejectCode.EMPTY_ANSWER),
        ([USER, {"role": "assistant", "content": " \n"}], RejectCode.EMPTY_ANSWER),
        ([USER, {"role": "assistant"}], RejectCode.MISSING_FIELD),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], RejectCode.WRONG_TYPE),
        ([USER, {"role": "assistant", "content": "4", "weight": 2}], RejectCode.WRONG_TYPE),
        ([USER, {"role": "assistant", "content": "4", "weight": True}], RejectCode.WRONG_TYPE),
        ([USER, {"role": "assistant", "content": "4", "weight": 0}], RejectCode.NO_SCORED_TOKENS),
        ([USER, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], RejectCode.UNKNOWN_SHAPE),
        ([{"role": "user", "content": ""}, ANSWER], RejectCode.MISSING_FIELD),
        ([{"role": "human", "content": "x"}, ANSWER], RejectCode.UNKNOWN_ROLE),
        ([{"role": ["user"], "content": "x"}, ANSWER], RejectCode.UNKNOWN_ROLE),
        ([ANSWER, USER], RejectCode.ROLE_ORDER),
        ([USER, USER, ANSWER], RejectCode.ROLE_ORDER),
        ([USER, ANSWER, USER], RejectCode.ROLE_ORDER),
        ([USER, ANSWER, {"role": "system", "content": "late"}, ANSWER], RejectCode.ROLE_ORDER),
        ([{"role": "tool", "content": "x"}, ANSWER], RejectCode.ROLE_ORDER),
    ],
)
def test_bad_chat_rows(tmp_path: Path, messages: Any, code: RejectCode) -> None:
    assert _code(tmp_path, {"messages": messages}, shape="chat") == code


@pytest.mark.parametrize(
    ("shape", "value", "code"),
    [
        ("prompt_completion", {"prompt": "p", "completion": ""}, RejectCode.EMPTY_ANSWER),
        ("prompt_completion", {"prompt": "", "completion": "c"}, RejectCode.MISSING_FIELD),
        ("prompt_completion", {"prompt": "p"}, RejectCode.MISSING_FIELD),
        ("prompt_completion", {"prompt": ["p"], "completion": "c"}, RejectCode.WRONG_TYPE),
        ("text", {"text": " "}, RejectCode.EMPTY_ANSWER),
        ("text", {"document": "x"}, RejectCode.UNKNOWN_SHAPE),
    ],
)
def test_bad_rows_of_the_other_shapes(tmp_path: Path, shape: str, value: Any, code: RejectCode) -> None:
    assert _code(tmp_path, value, shape=shape) == code


def test_good_rows_keep_everything(tmp_path: Path) -> None:
    system = {"role": "system", "content": ""}
    tool = {"role": "tool", "content": "4"}
    path = _jsonl(
        tmp_path,
        {"text": "x", "label": "a", "rating": 1.5, "id": "r1"},
        {"messages": [system, USER, ANSWER | {"weight": 0, "time": 3}, tool, ANSWER], "source": "s"},
        {"prompt": "p", "completion": "c", "id": 7},
        {"text": "x", "id": None},
    )
    reading = read_rows(path, mixed=True)
    label, chat, completion, text = reading.accepted
    assert isinstance(label, LabelRow)
    assert (label.id, label.extra, label.origin.file, label.origin.line) == ("r1", {"rating": 1.5}, "rows.jsonl", 1)
    assert isinstance(chat, ChatRow)
    assert chat.extra == {"source": "s", "message_columns": {"3": {"time": 3}}}
    assert [message.weight for message in chat.messages] == [None, None, 0.0, None, None]
    assert isinstance(completion, PromptCompletionRow)
    assert (completion.id, completion.extra) == ("7", {})
    assert isinstance(text, TextRow)
    assert len(text.id) == 16
    assert reading.labels == ("a",)
    assert reading.raw["r1"] == '{"text": "x", "label": "a", "rating": 1.5, "id": "r1"}'


def test_a_data_set_s_own_rows_are_read_back_as_they_were(tmp_path: Path) -> None:
    """The next recipe reads the rows.jsonl of the version that feedback wrote; a correction has no group, and needs none."""
    path = _jsonl(tmp_path, {"text": "x", "label": "a", "g": "1"}, {"messages": [USER, ANSWER | {"time": 3}], "g": "2"}, {"text": "y", "g": "2", "id": "own"})
    rows = read_rows(path, group_by="g", mixed=True).accepted
    alone = rows[0].model_copy(update={"id": "alone", "group": None, "extra": {"log_id": "r"}})
    again = tmp_path / "again.jsonl"
    again.write_text("".join(row.model_dump_json() + "\n" for row in (*rows, alone)))
    assert read_rows(again, group_by="g", mixed=True).accepted == (*rows, alone)
    assert [row.group for row in read_rows(again, mixed=True).accepted] == ["1", "2", "2", None]


def test_ids_follow_the_content_and_copies_are_numbered(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path, {"text": "x", "when": 1}, {"when": 2, "text": "x"}, {"text": "y"}, {"text": "x"}, {"text": "z", "id": "k"}, {"text": "w", "id": "k"}
    )
    ids = [row.id for row in read_rows(path).accepted]
    assert ids[1] == f"{ids[0]}-2"
    assert ids[3] == f"{ids[0]}-3"
    assert ids[4:] == ["k", "k-2"]
    assert len(set(ids)) == 6


def test_a_group_is_a_column(tmp_path: Path) -> None:
    reading = read_rows(_jsonl(tmp_path, {"text": "x", "label": "a", "g": 3}), shape="label", group_by="g")
    assert (reading.accepted[0].group, reading.accepted[0].extra) == ("3", {"g": 3})
    assert _code(tmp_path, {"text": "x", "label": "a"}, shape="label", group_by="g") == RejectCode.MISSING_FIELD
    assert _code(tmp_path, {"text": "x", "label": "a", "g": ""}, shape="label", group_by="g") == RejectCode.MISSING_FIELD
    assert _code(tmp_path, {"text": "x", "label": "a", "g": [1]}, shape="label", group_by="g") == RejectCode.WRONG_TYPE


def test_mixed_shapes_are_refused_with_counts_unless_asked(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, {"text": "x", "label": "a"}, {"text": "y", "label": "a"}, GOOD)
    with pytest.raises(InputError, match="several shapes: chat 1, label 2"):
        read_rows(path)
    assert len(read_rows(path, mixed=True).accepted) == 3


def test_an_unknown_shape_name_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='did you mean "label"'):
        read_rows(_jsonl(tmp_path, GOOD), shape="lable")


def test_five_per_cent_passes_and_more_does_not(tmp_path: Path) -> None:
    """1 of 20 lines is 5.0 %, which is not more than 5 %; 2 of 39 is 5.1 %."""
    good = [{"text": str(number)} for number in range(37)]
    assert len(read_rows(_jsonl(tmp_path, *good[:19], "{")).accepted) == 19
    with pytest.raises(TooManyMalformed, match=r"2 of 39 lines \(5.1%\)"):
        read_rows(_jsonl(tmp_path, *good, "{", "{"))


def test_an_error_lists_the_first_20_bad_lines(tmp_path: Path) -> None:
    with pytest.raises(TooManyMalformed) as refused:
        read_rows(_jsonl(tmp_path, *["{"] * 50))
    assert [problem.where.rpartition(":")[2] for problem in refused.value.problems[1:]] == [str(line) for line in range(1, 21)]


def test_d2_10_000_fuzzed_lines_add_up(tmp_path: Path) -> None:
    """MISSION D2, Proof: whatever the lines are, accepted + rejected = lines read, each line is in exactly one, and each rejected row says why."""
    rng = random.Random(2)
    scalars: list[Any] = [None, True, 0, -1.5, "", " ", "x", "\U0001f600", "\ud800", [], {}, [[]], {"a": {"b": []}}, "assistant", "user"]
    keys = ["text", "label", "prompt", "completion", "messages", "id", "g", "tools", "entities", "foo", "weight"]

    def message() -> Any:
        return {
            key: rng.choice([*scalars, "user", "assistant", "hi"]) for key in rng.sample(["role", "content", "weight", "tool_calls", "name"], rng.randint(0, 4))
        }

    def line() -> bytes:
        value: dict[str, Any] = {key: rng.choice(scalars) for key in rng.sample(keys, rng.randint(0, 5))}
        if rng.random() < 0.3:
            value = {"messages": [rng.choice([message(), USER, ANSWER]) for _ in range(rng.randint(0, 3))]} | value
        elif rng.random() < 0.4:
            value |= {"text": f"row {rng.random()}", "label": rng.choice("abc")}
        data = json.dumps(rng.choice([value, value, value, rng.choice(scalars)]), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:  # one byte changed, anywhere
            at = rng.randrange(len(data))
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        return data.replace(b"\n", b" ").strip() or b"0"

    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(b"\n".join(line() for _ in range(10_000)))
    for options in ({}, {"shape": "label", "labels": ["a", "b"], "group_by": "g"}, {"shape": "chat"}, {"mixed": True}):
        with pytest.raises(TooManyMalformed) as refused:
            read_rows(path, **options)  # type: ignore[arg-type]
        reading = refused.value.reading
        lines = [row.origin.line for row in reading.accepted] + [row.line for row in reading.rejected]
        assert reading.n_in == len(reading.accepted) + len(reading.rejected) == 10_000
        assert sorted(lines) == list(range(1, 10_001))
        assert len({row.id for row in reading.accepted}) == len(reading.accepted)
        assert all(row.why and row.fix for row in reading.rejected)
        for row in (*reading.accepted, *reading.rejected):
            row.model_dump_json()
