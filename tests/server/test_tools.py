"""Tools through the gateway, by the official client: offered in the prompt, called in OpenAI's shape, and never lost when they are no call (MISSION F1, V1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from fake_gateway import FakeEngine, Running, running

from planish.data.request_log import read_log
from planish.data.task import make
from planish.engines import endpoint
from planish.model.asker import EndpointAsker
from planish.rows import Message, Sample, ToolCall
from planish.scorers import tool_call

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "clock")
]
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
TWO = CALL + '\n<tool_call>{"name": "clock", "arguments": {"city": "Oslo"}}</tool_call>'
ASK: Any = [{"role": "user", "content": "Oslo?"}]


def _says(folder: Path, text: str) -> Any:
    """A gateway whose engine says `text`, in three pieces."""
    third = max(1, len(text) // 3)
    return running(folder, FakeEngine([text[:third], text[third : 2 * third], text[2 * third :]]))


def _ask(gateway: Running, **more: Any) -> Any:
    return gateway.client.chat.completions.create(model="tiny", messages=more.pop("messages", ASK), **more)


@pytest.mark.parametrize(("text", "names"), [(CALL, ["weather"]), (TWO, ["weather", "clock"]), ('weather(city="Oslo")', ["weather"])])
def test_calls_come_back_as_calls_whole_and_streamed(tmp_path: Path, text: str, names: list[str]) -> None:
    """Whatever notation the family writes: structured calls with ids of their own, no content, finish_reason tool_calls; the tools stood in the prompt."""
    with _says(tmp_path, text) as gateway:
        [choice] = _ask(gateway, tools=TOOLS).choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert [call.function.name for call in choice.message.tool_calls] == names
        assert all(json.loads(call.function.arguments) == {"city": "Oslo"} for call in choice.message.tool_calls)
        assert len({call.id for call in choice.message.tool_calls}) == len(names)
        assert bytes(gateway.engine.prompts[0]).startswith(b"<tool>weather<tool>clock<user>")
        pieces = [piece.choices[0] for piece in _ask(gateway, tools=TOOLS, stream=True)]
        assert [call.function.name for piece in pieces for call in piece.delta.tool_calls or ()] == names
        assert not any(piece.delta.content for piece in pieces)
        assert pieces[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("text", ["It is cold.", '<tool_call>{"name": "thermometer", "arguments": {}}</tool_call>', '<tool_call>{"name": "weather", "argu'])
def test_what_calls_no_tool_on_offer_stays_the_text_it_is(tmp_path: Path, text: str) -> None:
    with _says(tmp_path, text) as gateway:
        [choice] = _ask(gateway, tools=TOOLS).choices
        assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (text, None, "stop")
        pieces = [piece.choices[0].delta.content or "" for piece in _ask(gateway, tools=TOOLS, stream=True)]
        assert "".join(pieces) == text


def test_without_tools_nothing_is_read_as_a_call(tmp_path: Path) -> None:
    with _says(tmp_path, CALL) as gateway:
        for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
            [choice] = _ask(gateway, **more).choices
            assert (choice.message.content, choice.finish_reason) == (CALL, "stop")
        assert gateway.engine.prompts[0] == gateway.engine.prompts[1]


def test_a_dialogue_with_calls_and_results_is_rendered_and_logged(tmp_path: Path) -> None:
    turns = [
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "-3"},
    ]
    with _says(tmp_path, "Cold.") as gateway:
        assert _ask(gateway, messages=turns, tools=TOOLS).choices[0].message.content == "Cold."
        [record] = read_log(gateway.log.path)[0]
    assert record.content is not None
    assert record.content["messages"][1]["tool_calls"] == [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "c1"}]
    assert record.content["messages"][2]["tool_call_id"] == "c1"
    assert [tool["function"]["name"] for tool in record.content["tools"]] == ["weather", "clock"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice other than auto and none"),
        ({"tools": [{"type": "function", "function": {"parameters": {}}}]}, "tools.0.function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}]}]},
            "messages.0.tool_calls.0",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(shared: Running, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        _ask(shared, **body)
    assert refused.value.param == param


def test_r5_the_endpoint_is_scored_as_the_model_behind_it(tmp_path: Path) -> None:
    """MISSION R-5, F2: the gold question asked over the wire renders to the prompt that evaluation renders, and its structured call scores as the text does. A call that
    fails is no wrong answer: its finish says so."""
    history = (
        Message(role="user", content="Oslo?"),
        Message(role="assistant", content="", tool_calls=(ToolCall(name="clock", arguments={"city": "Oslo"}),)),
        Message(role="tool", content="9:00"),
        Message(role="user", content="and the weather?"),
    )
    sample = Sample(id="a", messages=history, target='[{"name": "weather", "arguments": {"city": "Oslo"}}]', tools=tuple(TOOLS))
    with _says(tmp_path, CALL) as gateway:
        talker = endpoint.start(f"{gateway.root}/v1", gateway.key, model="tiny")
        [answer] = EndpointAsker(talker).answer([sample], make("tools"))
        assert answer.finish == "stop"
        assert tool_call.score(sample, answer.text).value == tool_call.score(sample, CALL).value == 1
        wrong = endpoint.start(f"{gateway.root}/v1", "pl-wrong", model="tiny")
        [failed] = EndpointAsker(wrong).answer([sample], make("tools"))
        assert (failed.text, failed.finish) == (None, "failed")
        talker.close()
        wrong.close()
