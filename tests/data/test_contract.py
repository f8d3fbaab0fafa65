"""The row contract (MISSION D2): what makes a row, and the code of what does not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.data.contract import Refused, row_from
from planish.data.formats import Fault, read_records
from planish.errors import InputError
from planish.rows import (
    ChatRow,
    Entity,
    ExtractionRow,
    LabelRow,
    Message,
    Origin,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    RejectCode,
    Row,
    StepsRow,
    SummaryRow,
    TextRow,
    ToolCall,
    UnpairedRow,
    content_hash,
)

ORIGIN = Origin(file="rows.jsonl", line=1, sha256="0" * 64)
USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
GOOD = {"messages": [USER, ANSWER]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    },
}


def _row(value: dict[str, Any], **options: Any) -> Row:
    return row_from(value, origin=ORIGIN, **options)


def _code(value: dict[str, Any], **options: Any) -> RejectCode:
    with pytest.raises(Refused) as refused:
        _row(value, **options)
    assert refused.value.fault.why
    assert refused.value.fault.fix
    return refused.value.fault.code


def _call(arguments: Any, name: str = "weather", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}, **more}]}


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
        ({"text": "\u200b\u2060", "label": "a"}, RejectCode.EMPTY_ANSWER),
        ({"text": "x", "label": "A"}, RejectCode.LABEL_UNKNOWN),
        ({"foo": "x"}, RejectCode.UNKNOWN_SHAPE),
        (GOOD, RejectCode.UNKNOWN_SHAPE),
        ({"text": "x", "label": "a", "entities": [{"type": "b"}]}, RejectCode.UNKNOWN_SHAPE),
    ],
)
def test_bad_label_rows(value: Any, code: RejectCode) -> None:
    assert _code(value, shape="label", labels=["a", "b"]) == code


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ("hi", RejectCode.WRONG_TYPE),
        ([], RejectCode.NO_ASSISTANT_TURN),
        ([1], RejectCode.WRONG_TYPE),
        ([USER], RejectCode.NO_ASSISTANT_TURN),
        ([USER, {"role": "assistant", "content": None}], RejectCode.EMPTY_ANSWER),
        ([USER, {"role": "assistant", "content": " \n"}], RejectCode.EMPTY_ANSWER),
        ([USER, {"role": "assistant", "content": "\u200b"}], RejectCode.EMPTY_ANSWER),
        ([USER, {"role": "assistant"}], RejectCode.MISSING_FIELD),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], RejectCode.WRONG_TYPE),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER], RejectCode.WRONG_TYPE),
        ([USER, {"role": "assistant", "content": 4}], RejectCode.WRONG_TYPE),
        ([USER, ANSWER | {"weight": 2}], RejectCode.WRONG_TYPE),
        ([USER, ANSWER | {"weight": True}], RejectCode.WRONG_TYPE),
        ([USER, ANSWER | {"weight": 0}], RejectCode.NO_SCORED_TOKENS),
        ([USER, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], RejectCode.MISSING_FIELD),
        ([USER, {"role": "assistant", "content": "", "tool_calls": "x"}], RejectCode.WRONG_TYPE),
        ([USER | {"tool_calls": [{"name": "f"}]}, ANSWER], RejectCode.ROLE_ORDER),
        ([USER | {"tool_call_id": "1"}, ANSWER], RejectCode.ROLE_ORDER),
        ([{"role": "user", "content": ""}, ANSWER], RejectCode.MISSING_FIELD),
        ([{"role": "human", "content": "x"}, ANSWER], RejectCode.UNKNOWN_ROLE),
        ([{"role": ["user"], "content": "x"}, ANSWER], RejectCode.UNKNOWN_ROLE),
        ([ANSWER, USER], RejectCode.ROLE_ORDER),
        ([USER, USER, ANSWER], RejectCode.ROLE_ORDER),
        ([USER, ANSWER, USER], RejectCode.ROLE_ORDER),
        ([USER, ANSWER, {"role": "system", "content": "late"}, ANSWER], RejectCode.ROLE_ORDER),
        ([{"role": "tool", "content": "x"}, ANSWER], RejectCode.ROLE_ORDER),
        ([USER, ANSWER, {"role": "tool", "content": "x"}, ANSWER], RejectCode.TOOL_UNKNOWN),
    ],
)
def test_bad_chat_rows(messages: Any, code: RejectCode) -> None:
    assert _code({"messages": messages}, shape="chat") == code


@pytest.mark.parametrize(
    ("turns", "code"),
    [
        ([_call({"city": "Oslo"}, name="wether")], RejectCode.TOOL_UNKNOWN),
        ([_call({"days": 2})], RejectCode.TOOL_ARGS_INVALID),
        ([_call({"city": 7})], RejectCode.TOOL_ARGS_INVALID),
        ([_call({"city": "Oslo", "days": True})], RejectCode.TOOL_ARGS_INVALID),
        ([_call('{"city": "Oslo"')], RejectCode.TOOL_ARGS_INVALID),
        ([_call(json.dumps(json.dumps({"city": "Oslo"})))], RejectCode.TOOL_ARGS_INVALID),
        ([_call(["Oslo"])], RejectCode.TOOL_ARGS_INVALID),
        ([_call("")], RejectCode.TOOL_ARGS_INVALID),
        ([_call({"city": "Oslo"}, id="a"), {"role": "tool", "content": "4", "tool_call_id": "b"}, ANSWER], RejectCode.TOOL_UNKNOWN),
        ([_call({"city": "Oslo"}, id="a"), *[{"role": "tool", "content": "4", "tool_call_id": "a"}] * 2, ANSWER], RejectCode.TOOL_UNKNOWN),
        ([_call({"city": "Oslo"}), {"role": "tool", "content": "4", "name": "clock"}, ANSWER], RejectCode.TOOL_UNKNOWN),
        ([_call({"city": "Oslo"}, id=1)], RejectCode.WRONG_TYPE),
        ([_call({"city": "Oslo"}, type="custom")], RejectCode.WRONG_TYPE),
    ],
)
def test_bad_tool_turns(turns: list[Any], code: RejectCode) -> None:
    assert _code({"messages": [USER, *turns], "tools": [WEATHER]}) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"prompt": "p", "completion": ""}, RejectCode.EMPTY_ANSWER),
        ({"prompt": "", "completion": "c"}, RejectCode.MISSING_FIELD),
        ({"prompt": "p"}, RejectCode.MISSING_FIELD),
        ({"prompt": ["p"], "completion": "c"}, RejectCode.WRONG_TYPE),
        ({"text": " "}, RejectCode.EMPTY_ANSWER),
        ({"foo": "x"}, RejectCode.UNKNOWN_SHAPE),
        ({"instruction": "Add", "input": "2,3", "output": ""}, RejectCode.EMPTY_ANSWER),
        ({"instruction": "Add", "input": 5, "output": "5"}, RejectCode.WRONG_TYPE),
        ({"instruction": "Add", "output": "5", "history": [["one"]]}, RejectCode.WRONG_TYPE),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "moderator", "value": "y"}]}, RejectCode.UNKNOWN_ROLE),
        ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "y"}]}, RejectCode.MISSING_FIELD),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "f(1)"}]}, RejectCode.TOOL_ARGS_INVALID),
        ({"conversation": [{"human": "x"}]}, RejectCode.MISSING_FIELD),
        ({"prompt": "p", "chosen": "A b", "rejected": " a  B"}, RejectCode.CHOSEN_EQUALS_REJECTED),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, RejectCode.CHOSEN_EQUALS_REJECTED),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, RejectCode.EMPTY_ANSWER),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, RejectCode.MISSING_FIELD),
        ({"prompt": "p", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "5"}]}, RejectCode.ROLE_ORDER),
        ({"input": {}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}, RejectCode.MISSING_FIELD),
        ({"prompt": "p", "completion": "c", "label": "bad"}, RejectCode.WRONG_TYPE),
        ({"prompt": "p", "completion": "c", "label": 1}, RejectCode.WRONG_TYPE),
        ({"prompt": "p", "completion": "c", "label": None}, RejectCode.WRONG_TYPE),
        ({"messages": [USER, ANSWER], "label": 0}, RejectCode.WRONG_TYPE),
        ({"messages": [USER], "label": True}, RejectCode.EMPTY_ANSWER),
        ({"prompt": "p", "completions": ["a", "b"], "labels": [True]}, RejectCode.WRONG_TYPE),
        ({"prompt": "p", "completions": ["a"], "labels": [1]}, RejectCode.WRONG_TYPE),
        ({"prompt": "p", "completions": [], "labels": []}, RejectCode.EMPTY_ANSWER),
        ({"prompt": "p", "completions": ["a", " "], "labels": [True, False]}, RejectCode.EMPTY_ANSWER),
        ({"text": "abc", "entities": [{"type": "x", "start": 1, "end": 4}]}, RejectCode.SPAN_OUT_OF_RANGE),
        ({"text": "abc", "entities": [{"type": "x", "start": 2, "end": 2}]}, RejectCode.SPAN_OUT_OF_RANGE),
        ({"text": "abc", "entities": [{"type": "x", "start": -1, "end": 2}]}, RejectCode.SPAN_OUT_OF_RANGE),
        ({"text": "abc", "entities": [{"type": "x", "start": 0, "end": 2, "text": "bc"}]}, RejectCode.SPAN_OUT_OF_RANGE),
        ({"text": "abc", "entities": [{"type": "x", "start": 0.0, "end": 2}]}, RejectCode.WRONG_TYPE),
        ({"text": "abc", "entities": [{"type": "x", "start": 0}]}, RejectCode.MISSING_FIELD),
        ({"text": "abc", "fields": "x"}, RejectCode.WRONG_TYPE),
        ({"text": "abc", "fields": {}, "entities": []}, RejectCode.WRONG_TYPE),
        ({"document": "d", "summary": " "}, RejectCode.EMPTY_ANSWER),
        ({"document": "d"}, RejectCode.MISSING_FIELD),
        ({"question": "q", "context": "c", "answer": ""}, RejectCode.EMPTY_ANSWER),
        ({"question": "q", "context": "c", "answers": {"text": [], "answer_start": []}}, RejectCode.EMPTY_ANSWER),
        ({"question": "q", "documents": [1], "answer": "a"}, RejectCode.WRONG_TYPE),
        ({"question": "q", "documents": [" "], "answer": "a"}, RejectCode.MISSING_FIELD),
    ],
)
def test_bad_rows_of_the_other_shapes(value: Any, code: RejectCode) -> None:
    assert _code(value) == code


def test_good_rows_keep_everything() -> None:
    system = {"role": "system", "content": ""}
    label = _row({"text": "x", "label": "a", "rating": 1.5, "id": "r1"})
    assert isinstance(label, LabelRow)
    assert (label.id, label.extra, label.origin) == ("r1", {"rating": 1.5}, ORIGIN)
    chat = _row({"messages": [system, USER, ANSWER | {"weight": 0, "time": 3}, USER, ANSWER], "source": "s", "parallel_tool_calls": False})
    assert isinstance(chat, ChatRow)
    assert chat.extra == {"source": "s", "parallel_tool_calls": False, "message_columns": {"3": {"time": 3}}}
    assert [message.weight for message in chat.messages] == [None, None, 0.0, None, None]
    completion = _row({"prompt": "p", "completion": "c", "id": 7})
    assert isinstance(completion, PromptCompletionRow)
    assert (completion.id, completion.extra) == ("7", {})
    text = _row({"text": "x", "id": None})
    assert isinstance(text, TextRow)
    assert len(text.id) == 16
    extraction = _row({"text": "Ann sings", "entities": [{"type": "person", "start": 0, "end": 3, "text": "Ann"}]})
    assert isinstance(extraction, ExtractionRow)
    assert extraction.entities == (Entity(type="person", start=0, end=3),)
    assert extraction.extra == {"entity_columns": {"1": {"text": "Ann"}}}


def test_tool_turns_are_kept_with_arguments_as_objects() -> None:
    calls = [
        {"id": "a", "type": "function", "index": 0, "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"name": "weather", "arguments": {"city": "Rome"}},
    ]
    turns = [
        USER,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "", "tool_call_id": "a"},
        {"role": "tool", "content": "9 C", "name": "weather"},
        ANSWER,
    ]
    row = _row({"messages": turns, "tools": json.dumps([WEATHER["function"]])})
    assert isinstance(row, ChatRow)
    assert row.tools == (WEATHER,)
    assert row.messages[1].tool_calls == (ToolCall(name="weather", arguments={"city": "Oslo"}, id="a"), ToolCall(name="weather", arguments={"city": "Rome"}))
    assert row.messages[2] == Message(role="tool", content="", tool_call_id="a")
    assert row.extra == {"message_columns": {"2": {"tool_calls": {"1": {"index": 0}}}}}


def test_the_rows_of_every_other_shape() -> None:
    user, answer, other = Message(role="user", content="p"), Message(role="assistant", content="a"), Message(role="assistant", content="b")
    dpo = _row({"prompt": "p", "chosen": "a", "rejected": "b"})
    assert isinstance(dpo, PreferenceRow)
    assert (dpo.prompt, dpo.chosen, dpo.rejected) == ((user,), (answer,), (other,))
    kto = _row({"prompt": "p", "completion": "a", "label": False})
    assert isinstance(kto, UnpairedRow)
    assert (kto.prompt, kto.completion, kto.label) == ((user,), (answer,), False)
    prm = _row({"prompt": "p", "completions": ["a", "b"], "labels": [True, False]})
    assert isinstance(prm, StepsRow)
    assert (prm.completions, prm.labels) == (("a", "b"), (True, False))
    summary = _row({"document": "d", "summary": "s"})
    assert isinstance(summary, SummaryRow)
    fields = _row({"text": "x", "fields": {"total": None}})
    assert isinstance(fields, ExtractionRow)
    assert (fields.fields, fields.entities) == ({"total": None}, None)
    for value in ({"context": "d"}, {"documents": ["d"]}, {"documents": '["d"]'}):
        question = _row({"question": "q", "answer": "a", **value})
        assert isinstance(question, QuestionRow)
        assert (question.documents, question.extra) == (("d",), {})
    squad = _row({"question": "q", "context": "d", "answers": {"text": ["a", "b"], "answer_start": [0, 1]}, "title": "t"})
    assert isinstance(squad, QuestionRow)
    assert squad.answer == "a"
    assert squad.extra == {"title": "t", "answers": {"text": ["a", "b"], "answer_start": [0, 1]}}


STORED = [
    {"text": "x", "label": "a", "g": "1"},
    {"messages": [USER, ANSWER | {"time": 3}], "g": "2"},
    {"text": "y", "g": "2", "id": "own"},
    {"messages": [USER, _call({"city": "Oslo"}, id="a"), {"role": "tool", "content": "4"}, ANSWER], "tools": [WEATHER], "g": "1"},
    {"prompt": "p", "chosen": "a", "rejected": "b", "g": "1"},
    {"prompt": "p", "completion": "a", "label": False, "g": "1"},
    {"prompt": "p", "completions": ["a"], "labels": [True], "g": "1"},
    {"text": "x", "entities": [{"type": "t", "start": 0, "end": 1, "text": "x"}], "g": "1"},
    {"text": "x", "fields": {"a": 1}, "g": "1"},
    {"question": "q", "answer": "a", "context": "c", "g": "1"},
    {"document": "d", "summary": "s", "g": "1"},
]


@pytest.mark.parametrize("value", STORED)
def test_a_data_set_s_own_rows_are_read_back_as_they_were(value: dict[str, Any]) -> None:
    """The next recipe reads the rows.jsonl of the version that feedback wrote; a correction has no group, and needs none."""
    row = _row(value, group_by="g")
    alone = row.model_copy(update={"id": "alone", "group": None, "extra": {"log_id": "r"}})
    for one in (row, alone):
        again = row_from(json.loads(one.model_dump_json()), origin=ORIGIN.model_copy(update={"line": 9}), group_by="g")
        assert again == one
    assert _row(json.loads(row.model_dump_json())).group == value["g"]


def test_a_stored_row_is_held_to_the_contract_too() -> None:
    stored = json.loads(_row({"text": "x", "label": "a"}).model_dump_json())
    assert _code(stored, labels=["b"]) == RejectCode.LABEL_UNKNOWN
    assert _code(stored, shape="chat") == RejectCode.UNKNOWN_SHAPE


def test_a_group_is_a_column() -> None:
    row = _row({"text": "x", "label": "a", "g": 3}, shape="label", group_by="g")
    assert (row.group, row.extra) == ("3", {"g": 3})
    assert _code({"text": "x", "label": "a"}, shape="label", group_by="g") == RejectCode.MISSING_FIELD
    assert _code({"text": "x", "label": "a", "g": ""}, shape="label", group_by="g") == RejectCode.MISSING_FIELD
    assert _code({"text": "x", "label": "a", "g": [1]}, shape="label", group_by="g") == RejectCode.WRONG_TYPE


def test_an_unknown_shape_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(InputError, match='did you mean "label"'):
        _row(GOOD, shape="lable")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip().isalnum()), min_size=2, max_size=2))
def test_an_id_is_the_hash_of_the_trained_fields(said: list[str]) -> None:
    """The short way to it that plain dialogues take gives what `content_hash` gives."""
    messages = [{"role": role, "content": content} for role, content in zip(("user", "assistant"), said, strict=True)]
    assert _row({"messages": messages, "source": "s"}).id == content_hash({"shape": "chat", "messages": messages})[:16]


SCALARS: list[Any] = [None, True, 0, -1.5, 1e999, "", " ", "x", "\U0001f600", "\ud800", [], {}, [[]], {"a": {"b": []}}, "assistant", "user", '{"a": 1}', "[{}]"]
KEYS = [
    "text",
    "label",
    "prompt",
    "completion",
    "messages",
    "id",
    "g",
    "tools",
    "entities",
    "fields",
    "foo",
    "weight",
    "chosen",
    "rejected",
    "conversations",
    "conversation",
    "instruction",
    "input",
    "output",
    "history",
    "query",
    "response",
    "system",
    "kto_tag",
    "rejected_response",
    "completions",
    "labels",
    "document",
    "summary",
    "question",
    "answer",
    "context",
    "documents",
    "answers",
    "preferred_output",
    "non_preferred_output",
    "shape",
    "origin",
    "group",
    "extra",
]


def _message(rng: random.Random) -> Any:
    keys = rng.sample(["role", "content", "weight", "tool_calls", "name", "from", "value", "tool_call_id", "function_call"], rng.randint(0, 5))
    return {key: rng.choice([*SCALARS, "user", "assistant", "hi", [{"name": "f", "arguments": rng.choice(SCALARS)}]]) for key in keys}


def _line(rng: random.Random) -> bytes:
    value: dict[str, Any] = {key: rng.choice([*SCALARS, [USER, ANSWER], [_message(rng)]]) for key in rng.sample(KEYS, rng.randint(0, 5))}
    if rng.random() < 0.3:
        value = {"messages": [rng.choice([_message(rng), USER, ANSWER]) for _ in range(rng.randint(0, 3))]} | value
    elif rng.random() < 0.4:
        value |= {"text": f"row {rng.random()}", "label": rng.choice("abc")}
    data = json.dumps(rng.choice([value, value, value, rng.choice(SCALARS)]), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:  # one byte changed, anywhere
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data.replace(b"\n", b" ").strip() or b"0"


def test_d2_10_000_fuzzed_lines_add_up(tmp_path: Path) -> None:
    """MISSION D2, Proof: whatever the lines are, accepted + rejected = lines read, each line is in exactly one, and each rejected row says why."""
    rng = random.Random(2)
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(b"\n".join(_line(rng) for _ in range(10_000)))
    for options in ({}, {"shape": "label", "labels": ["a", "b"], "group_by": "g"}, {"shape": "chat"}):
        accepted, rejected = [], []
        for record in read_records(path):
            fault = record.value
            if not isinstance(fault, Fault):
                try:
                    row = row_from(fault, origin=ORIGIN, **options)  # type: ignore[arg-type]
                except Refused as refused:
                    fault = refused.fault
                else:
                    row.model_dump_json()
                    content_hash(row.model_dump(mode="json"))
                    accepted.append(record.line)
                    continue
            assert fault.why
            assert fault.fix
            rejected.append(record.line)
        assert accepted
        assert sorted(accepted + rejected) == list(range(1, 10_001))
