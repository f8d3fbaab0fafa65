"""The endpoint engine against a scripted transport: shapes, retries, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from planish.engines.endpoint import ATTEMPTS, EndpointEngine, start
from planish.errors import InputError, RunFailed
from planish.model.constraint import Constraint
from planish.model.engine import Decoding
from planish.rows import Message

ASK = [Message(role="user", content="hello")]
GREEDY = Decoding(max_new_tokens=16)


def engine(*answers: httpx.Response | Exception) -> tuple[EndpointEngine, list[dict[str, Any]], list[float]]:
    """An engine whose calls get these answers in turn, the bodies it sent, and how long it slept."""
    script, bodies, slept = list(answers), [], []

    def reply(request: httpx.Request) -> httpx.Response:
        bodies.append({"path": request.url.path, **json.loads(request.content)})
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = httpx.Client(base_url="http://127.0.0.1:1/v1/", transport=httpx.MockTransport(reply))
    return EndpointEngine(client, "m", sleep=slept.append), bodies, slept


def chat_reply(text: str = "yes", finish: str = "stop") -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]})


def test_a_chat_sends_what_was_asked_and_reads_the_answer() -> None:
    talker, bodies, _ = engine(chat_reply())
    answer = talker.chat(ASK, Decoding(max_new_tokens=4, temperature=0.5, top_k=3, stop=("\n",)), ["yes", "no"])
    assert (answer.text, answer.finish) == ("yes", "stop")
    assert bodies == [
        {
            "path": "/v1/chat/completions", "model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0.5,
            "top_p": 1.0, "seed": 0,
            "top_k": 3, "stop": ["\n"], "structured_outputs": {"choice": ["yes", "no"]},
        }
    ]  # fmt: skip


def test_e2_e3_every_setting_is_passed_on_or_refused() -> None:
    """MISSION E2, E3: what the wire has no word for is refused before a call is made; nothing is left out in silence."""
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "null"}}}
    talker, bodies, _ = engine(chat_reply())
    talker.chat(ASK, Decoding(min_p=0.1, repetition_penalty=1.2, constraint=Constraint.json_schema(schema)))
    assert (bodies[0]["min_p"], bodies[0]["repetition_penalty"]) == (0.1, 1.2)
    assert bodies[0]["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    talker.chat(ASK, Decoding(constraint=Constraint.regex("a+")))
    talker.chat(ASK, Decoding(constraint=Constraint.choice(["yes", "no"])))
    assert [body["structured_outputs"] for body in bodies[1:]] == [{"regex": "a+"}, {"choice": ["yes", "no"]}]
    with pytest.raises(InputError, match="endpoint lacks grammars"):
        talker.chat(ASK, Decoding(constraint=Constraint.grammar('start: "a"')))
    with pytest.raises(InputError, match="beside a choice"):
        talker.chat(ASK, Decoding(constraint=Constraint.regex("a+")), ["a", "b"])
    assert len(bodies) == 3


def test_generate_sends_token_ids() -> None:
    talker, bodies, _ = engine(httpx.Response(200, json={"choices": [{"text": "a", "finish_reason": "length"}]}))
    assert [each.text for each in talker.generate([[1, 2], [3]], GREEDY)] == ["a", "a"]
    assert [body["prompt"] for body in bodies] == [[1, 2], [3]]


def test_a_stream_is_read_to_its_end() -> None:
    lines = [{"choices": [{"text": "a", "finish_reason": None}]}, {"choices": [{"text": "b", "finish_reason": "stop"}]}]
    body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines)
    talker, _, _ = engine(httpx.Response(200, text=": ping\n\n" + body + "data: [DONE]\n\n"))
    assert [(delta.text, delta.finish) for delta in talker.stream([1], GREEDY)] == [("a", None), ("b", "stop")]
    for broken in (body, 'data: {"error": {"message": "x"}}\n\n'):
        talker, _, _ = engine(httpx.Response(200, text=broken))
        with pytest.raises(RunFailed):
            list(talker.stream([1], GREEDY))


@pytest.mark.parametrize(
    "trouble",
    [lambda: httpx.Response(429, headers={"retry-after": "7"}), lambda: httpx.Response(503), lambda: httpx.ConnectError("x"), lambda: httpx.ReadTimeout("x")],
)
def test_it_tries_again(trouble: Callable[[], httpx.Response | Exception]) -> None:
    first = trouble()
    talker, bodies, slept = engine(first, trouble(), chat_reply())
    assert talker.chat(ASK, GREEDY).text == "yes"
    assert len(bodies) == talker.attempts == 3
    assert slept == ([7.0, 7.0] if isinstance(first, httpx.Response) and "retry-after" in first.headers else [0.5, 1.0])


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        (httpx.Response(500), ATTEMPTS),
        (httpx.ConnectError("refused"), ATTEMPTS),
        (httpx.Response(400, json={"error": {"message": "no such feature"}}), 1),
        (httpx.Response(302, headers={"location": "http://127.0.0.1:2/"}), 1),
        (httpx.Response(200, text="<html>"), 1),
        (httpx.Response(200, json={"choices": []}), 1),
        (httpx.Response(200, json=[1]), 1),
        (chat_reply(finish="content_filter"), 1),
        (httpx.Response(200, json={"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}), 1),
    ],
)
def test_a_failed_call_is_endpoint_failed(answer: httpx.Response | Exception, calls: int) -> None:
    talker, bodies, _ = engine(answer)
    with pytest.raises(RunFailed) as failed:
        talker.chat(ASK, GREEDY)
    assert failed.value.reason_code == "endpoint_failed"
    assert len(bodies) == calls


def test_options_cannot_be_scored_over_the_wire() -> None:
    with pytest.raises(InputError, match="choice"):
        engine(chat_reply())[0].choose([[1]], [[2]])


@pytest.mark.parametrize(
    "url", ["http://example.com/v1", "ftp://127.0.0.1/v1", "127.0.0.1:8000/v1", "http://u:p@127.0.0.1/v1", "http://localhost.example.com/v1"]
)
def test_an_unsafe_address_is_refused(url: str) -> None:
    with pytest.raises(InputError) as refused:
        start(url, model="m")
    assert "u:p" not in str(refused.value)


def test_the_key_comes_from_the_environment_and_text_is_not_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "k")
    for talker, expected in (
        (start("http://127.0.0.1:9/v1", model="m", key_env="OTHER_KEY"), "Bearer k"),
        (start("https://example.com/v1/", model="m", key_env="OTHER_KEY", key="given"), "Bearer given"),
    ):
        assert talker._client.headers["authorization"] == expected
        assert talker._client.headers["x-planish-opt-out"] == "1"
        talker.close()
        talker.close()
