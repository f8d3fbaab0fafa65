"""The gateway seen by the official client: answers, streams, limits, refusals, disconnects."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_gateway import WORDS, FakeEngine, Running, running, wait_for

from planish.data.request_log import read_log
from planish.engines import endpoint
from planish.model.constraint import Constraint
from planish.model.engine import Decoding
from planish.rows import Message

HELLO = [{"role": "user", "content": "hello"}]


def ask(gateway: Running, **more: object) -> openai.types.chat.ChatCompletion:
    return gateway.client.chat.completions.create(model="tiny", messages=HELLO, **more)  # type: ignore[call-overload, no-any-return]


def post(gateway: Running, body: object, path: str = "/v1/chat/completions", **more: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**gateway.headers(), "content-type": "application/json"}
    return httpx.post(gateway.root + path, content=content, headers=headers, **more)  # type: ignore[arg-type]


def test_stream_and_whole_answer_are_the_same_text_and_usage(gateway: Running) -> None:
    whole = ask(gateway)
    chunks = list(gateway.client.chat.completions.create(model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}))
    assert whole.choices[0].message.content == "".join(WORDS)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "".join(WORDS)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len("<user>hello"), len(WORDS))
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_engine_gets_the_ids_of_the_one_template_function(gateway: Running) -> None:
    ask(gateway)
    assert gateway.engine.prompts == [list(b"<user>hello")]


def test_plain_completions_by_text_and_by_ids(gateway: Running) -> None:
    by_text = gateway.client.completions.create(model="tiny", prompt="abc", max_tokens=2)
    by_ids = gateway.client.completions.create(model="tiny", prompt=[97, 98, 99], max_tokens=2)
    pieces = list(gateway.client.completions.create(model="tiny", prompt=[97, 98, 99], max_tokens=2, stream=True))
    assert by_text.choices[0].text == by_ids.choices[0].text == "".join(piece.choices[0].text for piece in pieces) == "The sound"
    assert by_text.choices[0].finish_reason == "length"
    assert gateway.engine.prompts == [[97, 98, 99]] * 3


def test_a_choice_is_the_likeliest_label_with_the_end_of_turn(gateway: Running) -> None:
    """The fake engine weighs an option by its length, end included: "positive" (9) beats "no" (3)."""
    whole = ask(gateway, extra_body={"structured_outputs": {"choice": ["no", "positive"]}})
    stream = gateway.client.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, extra_body={"structured_outputs": {"choice": ["no", "positive"]}}
    )
    assert whole.choices[0].message.content == "positive" == "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert gateway.engine.options == [[*b"no", 0], [*b"positive", 0]]


def test_what_a_request_leaves_out_is_the_served_models_setting(gateway: Running) -> None:
    ask(gateway)
    ask(gateway, temperature=0.5, top_p=0.9, seed=7, stop=["\n"], max_completion_tokens=10**6)
    first, second = gateway.engine.decodings
    assert (first.temperature, first.max_new_tokens) == (0.0, 128)
    assert (second.temperature, second.top_p, second.seed, second.stop, second.max_new_tokens) == (0.5, 0.9, 7, ("\n",), 2000 - len("<user>hello"))


def test_ten_requests_two_slots_a_queue_of_four(tmp_path: Path) -> None:
    """MISSION V1: 10 requests, queue 4, 2 slots -> 6 served, 4 get 429 (with Retry-After)."""
    with running(tmp_path, slots=2, queue=4) as gateway, ThreadPoolExecutor(10) as pool:
        gateway.engine.gate.clear()
        calls = [pool.submit(post, gateway, {"model": "tiny", "messages": HELLO}, timeout=20) for _ in range(10)]
        assert wait_for(lambda: sum(call.done() for call in calls) == 4)
        gateway.engine.gate.set()
        answers = [call.result() for call in calls]
        assert sorted(answer.status_code for answer in answers) == [200] * 6 + [429] * 4
        assert all(
            answer.headers["retry-after"] == "1" and answer.json()["error"]["type"] == "rate_limit_error" for answer in answers if answer.status_code == 429
        )
        assert gateway.engine.most_busy == 2
        assert wait_for(lambda: gateway.gateway.admission.running == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_frees_the_slot_within_250_ms(tmp_path: Path, stream: bool) -> None:
    with running(tmp_path, FakeEngine(words=["word "] * 1000, latency=0.01), slots=1) as gateway:
        for _ in range(5):
            body = json.dumps({"model": "tiny", "messages": HELLO, "stream": stream, "max_tokens": 1000}).encode()
            with socket.create_connection(("127.0.0.1", int(gateway.root.rpartition(":")[2]))) as raw:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {gateway.key}\r\nContent-Type: application/json\r\n"
                raw.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                assert wait_for(lambda: gateway.engine.busy == 1)
                time.sleep(0.05)
            gone = time.monotonic()
            assert wait_for(lambda: gateway.gateway.admission.running == 0)
            assert time.monotonic() - gone < 0.25
        assert wait_for(lambda: len(read_log(gateway.log.path)[0]) == 5)
        assert {record.finish for record in read_log(gateway.log.path)[0]} == {"cancelled"}


def test_a_client_that_leaves_the_queue_takes_no_slot(tmp_path: Path) -> None:
    with running(tmp_path, slots=1, queue=1) as gateway, ThreadPoolExecutor(1) as pool:
        gateway.engine.gate.clear()
        first = pool.submit(post, gateway, {"model": "tiny", "messages": HELLO}, timeout=20)
        assert wait_for(lambda: gateway.engine.busy == 1)
        with pytest.raises(httpx.ReadTimeout):
            post(gateway, {"model": "tiny", "messages": HELLO}, timeout=0.2)
        assert wait_for(lambda: gateway.gateway.admission.waiting == 0)
        gateway.engine.gate.set()
        assert first.result().status_code == 200
        assert len(gateway.engine.prompts) == 1


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "parallel_tool_calls": False}, "parallel_tool_calls=false"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"extra_body": {"structured_outputs": {"structural_tag": "a"}}}, "structured_outputs.structural_tag"),
        ({"extra_body": {"chat_template": "{{ 1 }}"}}, "chat_template"),
    ],
)
def test_a_feature_the_engine_lacks_is_named(shared: Running, more: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(shared, **more)
    assert refused.value.code == "unsupported_by_engine"
    assert refused.value.param == param
    assert '"fake"' in refused.value.message


def test_v1_e3_a_response_format_reaches_the_engine_as_a_constraint(shared: Running) -> None:
    """json_object, json_schema, regex and grammar; a keyword that masks cannot hold is named in the 400."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked: list[tuple[dict[str, Any], Constraint]] = [
        ({"response_format": {"type": "json_object"}}, Constraint.json_object()),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}}, Constraint.json_schema(schema)),
        ({"extra_body": {"structured_outputs": {"regex": "a+"}}}, Constraint.regex("a+")),
        ({"extra_body": {"structured_outputs": {"grammar": 'start: "a"'}}}, Constraint.grammar('start: "a"')),
    ]
    for more, wanted in asked:
        ask(shared, **more)
        assert shared.engine.decodings[-1].constraint == wanted
    ask(shared, extra_body={"min_p": 0.1, "repetition_penalty": 1.2})
    last = shared.engine.decodings[-1]
    assert (last.min_p, last.repetition_penalty, last.constraint) == (0.1, 1.2, None)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(shared, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}})
    assert (refused.value.code, refused.value.param) == ("unsupported_schema", "response_format")
    assert "uniqueItems" in refused.value.message


def test_what_a_client_spells_out_as_absent_is_accepted(shared: Running) -> None:
    ask(shared, n=1, logprobs=False, presence_penalty=0, response_format={"type": "text"}, user="u", extra_body={"tools": None})


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b'{"model": NaN}', b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"tiny","messages":[],"max_tokens":1' + b"0" * 5000 + b"}", b"\xff\xfe",
        *(
            json.dumps({"model": "tiny", "messages": HELLO, **more}).encode()
            for more in (
                {"messages": []}, {"messages": HELLO * 257}, {"messages": HELLO * 2}, {"messages": "x"}, {"messages": [1]}, {"messages": [{"role": "user"}]},
                {"messages": [{"role": "root", "content": "x"}]}, {"messages": [{"role": "tool", "content": "x"}]},
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
                {"messages": [{"role": "user", "content": "x" * 3000}]},
                {"max_tokens": 0}, {"max_tokens": 1.5}, {"max_tokens": "3"}, {"temperature": -1}, {"temperature": 3}, {"temperature": "0.5"},
                {"temperature": True},
                {"top_p": 0},
                {"stop": ["a"] * 17}, {"stop": "a" * 65}, {"stop": ""}, {"stream": 1}, {"n": 0}, {"n": True}, {"nonsense": 1}, {"seed": 2**64},
                {"structured_outputs": {"choice": []}}, {"structured_outputs": {"choice": ["a", "a"]}}, {"structured_outputs": "x"},
                {"structured_outputs": {"choice": ["a", ""]}}, {"structured_outputs": {"choice": ["a", "b"], "regex": "a"}}, {"structured_outputs": {"regex": "(?=a)"}},
                {"response_format": {"type": "json_schema"}}, {"response_format": {"type": "json_object", "json_schema": {"schema": {}}}},
                {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, {"structured_outputs": {"grammar": "start: nowhere"}},
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}}, {"min_p": 2}, {"repetition_penalty": 0},
            )
        ),
    ],
)  # fmt: skip
def test_a_malformed_body_is_400_in_openais_shape(shared: Running, body: bytes) -> None:
    before = len(shared.engine.prompts)
    answer = post(shared, body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert len(shared.engine.prompts) == before


def test_an_unknown_field_gets_the_nearest_name(shared: Running) -> None:
    error = post(shared, {"model": "tiny", "messages": HELLO, "max_token": 3}).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", "max_token")
    assert "max_tokens" in error["message"]


@pytest.mark.parametrize(
    ("prompt", "code"), [([999], "invalid_value"), ([[1], [2]], "invalid_value"), ("x" * 2000, "context_length_exceeded"), ([-1], "invalid_value")]
)
def test_a_prompt_that_does_not_fit_is_400(shared: Running, prompt: object, code: str) -> None:
    answer = post(shared, {"model": "tiny", "prompt": prompt}, "/v1/completions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_other_refusals_keep_openais_shape(shared: Running) -> None:
    with pytest.raises(openai.NotFoundError) as absent:
        shared.client.chat.completions.create(model="other", messages=HELLO)  # type: ignore[arg-type]
    assert absent.value.code == "model_not_found"
    assert post(shared, b" " * 1_000_001).status_code == 413
    assert httpx.post(f"{shared.root}/v1/chat/completions", data={"a": "b"}, headers=shared.headers()).json()["error"]["code"] == "invalid_content_type"
    assert httpx.get(f"{shared.root}/v1/chat/completions", headers=shared.headers()).json()["error"]["code"] == "method_not_allowed"
    assert httpx.get(f"{shared.root}/docs", headers=shared.headers()).status_code == 404


def test_an_engine_that_fails_is_told_without_its_message(tmp_path: Path) -> None:
    with running(tmp_path, FakeEngine(fail_after=2)) as gateway:
        whole = post(gateway, {"model": "tiny", "messages": HELLO})
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "engine_failed")
        with pytest.raises(openai.APIError):
            list(gateway.client.chat.completions.create(model="tiny", messages=HELLO, stream=True))  # type: ignore[call-overload]
        streamed = post(gateway, {"model": "tiny", "messages": HELLO, "stream": True}).text
        assert "[DONE]" not in streamed
        assert "secret text" not in whole.text + streamed
        assert wait_for(lambda: gateway.gateway.admission.running == 0)
        assert wait_for(lambda: len(read_log(gateway.log.path)[0]) == 3)  # what failed is not held back until its line is written
        assert [record.finish for record in read_log(gateway.log.path)[0]] == ["error"] * 3


def test_no_text_can_forge_an_event(shared: Running) -> None:
    """One of the fake's words is "data: [DONE]" after a line end: it must arrive as text."""
    lines = [line for line in post(shared, {"model": "tiny", "messages": HELLO, "stream": True}).text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert [line for line in lines if line == "data: [DONE]"] == ["data: [DONE]"] == lines[-1:]


def test_models_and_the_unproven_mark(tmp_path: Path) -> None:
    with running(tmp_path, unproven=True) as gateway:
        [model] = gateway.client.models.list().data
        assert (model.id, model.owned_by, model.unproven) == ("tiny", "planish", True)  # type: ignore[attr-defined]
        assert gateway.client.models.retrieve("tiny").id == "tiny"
        assert post(gateway, {"model": "tiny", "messages": HELLO}).headers["x-planish-unproven"] == "true"
        assert "planish_unproven 1" in httpx.get(f"{gateway.root}/metrics", headers=gateway.headers()).text


def test_a_proven_model_carries_no_mark(shared: Running) -> None:
    assert "x-planish-unproven" not in post(shared, {"model": "tiny", "messages": HELLO}).headers


def test_metrics_count_what_happened(gateway: Running) -> None:
    ask(gateway)
    post(gateway, b"{")
    page = httpx.get(f"{gateway.root}/metrics", headers=gateway.headers()).text
    assert 'planish_requests_total{route="/v1/chat/completions",status="200"} 1' in page
    assert 'planish_requests_total{route="/v1/chat/completions",status="400"} 1' in page
    assert f'planish_tokens_total{{kind="completion"}} {len(WORDS)}' in page
    assert "planish_time_to_first_token_seconds_count 1" in page


def test_streams_run_side_by_side_without_mixing(tmp_path: Path) -> None:
    with running(tmp_path, FakeEngine(latency=0.002), slots=8, queue=64) as gateway, ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda _: ask(gateway).choices[0].message.content, range(48)))
        assert texts == ["".join(WORDS)] * 48
        assert threading.active_count() < 60


def test_the_endpoint_engine_talks_to_the_gateway(gateway: Running) -> None:
    """Both ends are ours: chat, a choice, ids, a stream; and no text of it is logged."""
    talker = endpoint.start(f"{gateway.root}/v1", model="tiny", key=gateway.key)
    asked = [Message(role="user", content="hello")]
    greedy = Decoding(max_new_tokens=3)
    assert talker.chat(asked, greedy).text == "The sound is"
    assert talker.chat(asked, greedy, ["no", "positive"]).text == "positive"
    [by_ids] = talker.generate([[1, 2]], greedy)
    assert (by_ids.text, by_ids.finish) == ("The sound is", "length")
    assert "".join(delta.text for delta in talker.stream([1, 2], greedy)) == "The sound is"
    talker.close()
    records = read_log(gateway.log.path)[0]
    assert len(records) == 4
    assert all(record.content is None for record in records)
