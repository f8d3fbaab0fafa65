"""Formats (MISSION D1): every way to write a row is told by its keys and becomes the same row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planish.data.contract import row_from
from planish.data.fault import Refused
from planish.data.formats import FORMATS, detect
from planish.rows import ChatRow, Message, Origin, PreferenceRow, Row, ToolCall, UnpairedRow

ORIGIN = Origin(file="a", line=1, sha256="0" * 64)
USER, ANSWER, WORSE = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}
DIALOGUE = [USER, ANSWER]
SAID = [{"from": "human", "value": "p"}, {"from": "gpt", "value": "a"}]
EARLIER = [{"role": "system", "content": "s"}, {"role": "user", "content": "p0"}, {"role": "assistant", "content": "a0"}]


def _row(value: dict[str, Any]) -> Row:
    return row_from(value, origin=ORIGIN)


def _messages(*turns: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(**turn) for turn in turns)


EXAMPLES: dict[str, dict[str, Any]] = {
    "openai": {"messages": DIALOGUE, "tools": []},
    "prompt_completion_messages": {"prompt": [USER], "completion": [ANSWER]},
    "prompt_completion": {"prompt": "p", "completion": "a", "x": 1},
    "sharegpt": {"conversations": SAID},
    "sharegpt_pairs": {"conversation": [{"human": "p", "assistant": "a"}]},
    "alpaca": {"instruction": "p", "input": "", "output": "a", "text": "Below is an instruction"},
    "query": {"query": "p", "response": "a"},
    "dpo": {"prompt": "p", "chosen": "a", "rejected": "b", "messages": DIALOGUE},
    "dpo_implicit": {"chosen": DIALOGUE, "rejected": [USER, WORSE]},
    "openai_preference": {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [WORSE]},
    "sharegpt_preference": {"conversations": SAID[:1], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
    "alpaca_preference": {"instruction": "p", "input": "", "chosen": "a", "rejected": "b"},
    "swift_messages": {"messages": DIALOGUE, "rejected_messages": [USER, WORSE]},
    "swift_response": {"messages": DIALOGUE, "rejected_response": "b"},
    "swift_query": {"query": "p", "response": "a", "rejected_response": "b"},
    "kto": {"prompt": "p", "completion": "a", "label": True},
    "kto_tag": {"prompt": [USER], "completion": [ANSWER], "kto_tag": True},
    "openai_kto": {"messages": DIALOGUE, "label": True},
    "openai_kto_tag": {"messages": DIALOGUE, "kto_tag": True},
    "sharegpt_kto": {"conversations": SAID, "label": True},
    "sharegpt_kto_tag": {"conversations": SAID, "kto_tag": True},
    "alpaca_kto": {"instruction": "p", "output": "a", "label": True},
    "alpaca_kto_tag": {"instruction": "p", "output": "a", "kto_tag": True},
    "query_kto": {"query": "p", "response": "a", "label": True},
    "query_kto_tag": {"query": "p", "response": "a", "kto_tag": True},
    "prm": {"prompt": "p", "completions": ["a"], "labels": [True]},
    "label": {"text": "a", "label": "b", "entities": []},
    "extraction": {"text": "a", "entities": []},
    "extraction_fields": {"text": "a", "fields": {"x": 1}},
    "summary": {"document": "d", "summary": "s"},
    "qa": {"question": "q", "answer": "a", "context": "c"},
    "squad": {"question": "q", "context": "c", "answers": {"text": ["a"], "answer_start": [0]}},
    "text": {"text": "a", "source": "b"},
}
EXPECTED = {
    "chat": ChatRow(id="x", origin=ORIGIN, messages=_messages(*DIALOGUE)),
    "preference": PreferenceRow(id="x", origin=ORIGIN, prompt=_messages(USER), chosen=_messages(ANSWER), rejected=_messages(WORSE)),
    "unpaired": UnpairedRow(id="x", origin=ORIGIN, prompt=_messages(USER), completion=_messages(ANSWER), label=True),
}


def test_every_format_has_its_example() -> None:
    assert {known.name for known in FORMATS} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_d1_a_format_is_told_by_its_keys_and_becomes_the_row_of_its_shape(name: str) -> None:
    """However a dialogue, a preference or a judged answer is written, it is one and the same row."""
    found = detect(EXAMPLES[name])
    assert found is not None
    assert found.name == name
    row = _row(EXAMPLES[name])
    assert row.shape == found.shape
    if row.shape in EXPECTED:
        assert row.model_copy(update={"id": "x", "extra": {}}) == EXPECTED[row.shape]


def test_d1_alpaca_joins_instruction_and_input() -> None:
    """MISSION D1, Ex: alpaca {Add, "2,3", 5} -> user "Add\n\n2,3", assistant "5"."""
    row = _row({"instruction": "Add", "input": "2,3", "output": "5"})
    assert isinstance(row, ChatRow)
    assert row.messages == _messages({"role": "user", "content": "Add\n\n2,3"}, {"role": "assistant", "content": "5"})
    assert row.extra == {}


@pytest.mark.parametrize(
    "value",
    [
        {"instruction": "p", "output": "a", "system": "s", "history": [["p0", "a0"]]},
        {"query": "p", "response": "a", "system": "s", "history": '[["p0", "a0"]]'},
        {"conversations": [{"from": "human", "value": "p0"}, {"from": "gpt", "value": "a0"}, *SAID], "system": "s"},
        {"conversation": [{"human": "p0", "assistant": "a0"}, {"human": "p", "assistant": "a"}], "system": "s"},
        {"messages": json.dumps([*EARLIER, *DIALOGUE])},
        {"messages": [*EARLIER, {"role": "user", "content": [{"type": "text", "text": "p"}]}, ANSWER]},
    ],
)
def test_system_and_history_become_turns(value: dict[str, Any]) -> None:
    row = _row(value)
    assert isinstance(row, ChatRow)
    assert row.messages == _messages(*EARLIER, *DIALOGUE)
    assert row.extra == {}


def test_answers_within_a_prompt_are_not_trained() -> None:
    row = _row({"prompt": [*EARLIER, USER], "completion": [ANSWER]})
    assert isinstance(row, ChatRow)
    assert [message.weight for message in row.messages] == [None, None, 0.0, None, None]


WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}


@pytest.mark.parametrize(
    "value",
    [
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
                {"role": "tool", "content": "4 C", "name": "weather"},
                ANSWER,
            ],
            "tools": [{"type": "function", "function": WEATHER}],
        },
        {
            "messages": [USER, {"role": "assistant", "content": "", "function_call": CALL}, {"role": "function", "content": "4 C", "name": "weather"}, ANSWER],
            "functions": [WEATHER],
        },
        {
            "conversations": [
                SAID[0],
                {"from": "function_call", "value": json.dumps(CALL | {"arguments": json.dumps(CALL["arguments"])})},
                {"from": "observation", "value": "4 C", "name": "weather"},
                SAID[1],
            ],
            "tools": json.dumps([WEATHER]),
        },
    ],
)
def test_tool_calls_are_one_whoever_writes_them(value: dict[str, Any]) -> None:
    """OpenAI's present and former form, and ShareGPT's with the arguments as JSON text."""
    row = _row(value)
    assert isinstance(row, ChatRow)
    assert row.messages == (
        Message(role="user", content="p"),
        Message(role="assistant", content="", tool_calls=(ToolCall(name="weather", arguments={"city": "Oslo"}),)),
        Message(role="tool", content="4 C", name="weather"),
        Message(role="assistant", content="a"),
    )
    assert row.tools == ({"type": "function", "function": WEATHER},)


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": [USER], "chosen": DIALOGUE, "rejected": [USER, WORSE]},
        {"prompt": "p", "chosen": DIALOGUE, "rejected": [USER, WORSE]},
        {"prompt": None, "chosen": DIALOGUE, "rejected": [USER, WORSE]},
        {"prompt": "p", "chosen": [ANSWER], "rejected": [WORSE]},
    ],
)
def test_answers_that_repeat_the_prompt_are_read_without_it(value: dict[str, Any]) -> None:
    row = _row(value)
    assert row.model_copy(update={"id": "x"}) == EXPECTED["preference"]


def test_what_openai_s_input_holds_besides_is_kept() -> None:
    row = _row(EXAMPLES["openai_preference"] | {"input": {"messages": [USER], "tools": [], "parallel_tool_calls": False}})
    assert row.extra == {"input": {"parallel_tool_calls": False}}


@pytest.mark.parametrize(
    "value",
    [
        {"foo": 1},
        {"chosen": "a", "rejected": "b"},
        {"text": "a", "label": "b", "entities": [{"type": "x"}], "fields": {}},
        {"instruction": "p", "output": "a", "rejected": "b", "extra": 1},
    ],
)
def test_what_no_format_has_is_none(value: dict[str, Any]) -> None:
    found = detect(value)
    assert found is None or found.name == "extraction"


def test_a_judged_row_is_not_read_as_a_dialogue() -> None:
    """`label: false` marks a bad answer: read as a plain dialogue it would be trained on. A label that is a word is a column like any other."""
    for label in (False, 0, "false"):
        found = detect({"messages": DIALOGUE, "label": label})
        assert found is not None
        assert found.shape == "unpaired"
    found = detect({"messages": DIALOGUE, "label": "billing"})
    assert found is not None
    assert found.shape == "chat"


@pytest.mark.parametrize("before", [[], EARLIER[:1]])
def test_answers_to_two_prompts_are_no_pair(before: list[dict[str, Any]]) -> None:
    """P1: without a prompt of its own a pair has that which both begin with; where they ask different things, that is said, not that something is missing."""
    other = {"role": "user", "content": "q"}
    with pytest.raises(Refused, match="have different prompts"):
        _row({"chosen": [*before, USER, ANSWER], "rejected": [*before, other, WORSE]})
