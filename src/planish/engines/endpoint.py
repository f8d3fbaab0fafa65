"""Any OpenAI-compatible endpoint: chat by messages, completions by text or token ids."""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from planish.data.fault import Refused
from planish.data.task import said
from planish.data.tool_calls import calls
from planish.data.written import turn as openai_turn
from planish.errors import InputError, Problem, RunFailed
from planish.lazy import require
from planish.model.constraint import Constraint
from planish.model.engine import Decoding, Delta, Generation
from planish.rows import Message, ToolCall

ATTEMPTS = 4
_BACKOFF_S = 0.5  # doubled after each attempt
_LONGEST_WAIT_S = 30.0
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def start(url: str, key: str | None = None, *, model: str, key_env: str = "PLANISH_API_KEY", timeout: float = 60.0) -> EndpointEngine:
    """Talk to the endpoint at `url` (ending in /v1). The key is read from the environment variable `key_env`; `timeout` is in seconds per attempt.
    `key` is for a caller that holds the secret already; a recipe names `key_env`, so that no secret stands in a file. A planish gateway is asked to keep no
    text of these calls: gold rows must not come back as training data (R-4).

    Raises InputError for an address that is neither https nor plain http to this machine: a key and people's text must not cross a network in the clear.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.password:
        raise InputError(
            Problem(f"endpoint {parts.hostname or url[:64]}", "is not an http(s) address without credentials", "for example http://127.0.0.1:8000/v1")
        )
    local = _is_loopback(parts.hostname)
    if parts.scheme == "http" and not local:
        raise InputError(Problem(f"endpoint {parts.hostname}", "plain http leaves this machine", "use https"))
    httpx = require("httpx", extra="serve")
    secret = os.environ.get(key_env, "") if key is None else key
    client = httpx.Client(
        base_url=url.rstrip("/") + "/",
        headers={"x-planish-opt-out": "1"} | ({"authorization": f"Bearer {secret}"} if secret else {}),
        timeout=timeout,
        follow_redirects=False,
        trust_env=not local,  # a proxy from the environment must not see calls to this machine
    )
    return EndpointEngine(client, model)


class EndpointEngine:
    """An engine at the other end of a wire. It returns no token ids, and it scores options only as `chat(..., choice=...)`.

    A call is tried up to 4 times on 408, 409, 425, 429, 5xx and broken connections, with doubling waits or the server's Retry-After (at most 30 s). A call that
    still fails raises RunFailed with reason code "endpoint_failed": a failed call is no wrong answer (MISSION O3).
    """

    name = "endpoint"

    def __init__(self, client: Any, model: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.model = model
        self.attempts = 0  # HTTP calls made, retries included
        self._client = client
        self._sleep = sleep
        self._errors = require("httpx", extra="serve").HTTPError

    def chat(self, messages: Sequence[Message], decoding: Decoding, choice: Sequence[str] | None = None, tools: Sequence[dict[str, Any]] = ()) -> Generation:
        """The answer to a conversation; with `choice`, one of the labels. Calls of the `tools` on offer come back as the JSON that a target writes them in."""
        if choice is not None and decoding.constraint is not None:
            raise InputError(Problem("decoding.constraint", "is given beside a choice among labels", "give one of them"))
        body: dict[str, Any] = {"messages": openai_turns(messages), **self._settings(decoding)}
        if tools:
            body["tools"] = list(tools)
        if choice is not None:
            body["structured_outputs"] = {"choice": list(choice)}
        [answer] = self._choices(self._post("chat/completions", body), 1)
        message = answer["message"] if isinstance(answer.get("message"), dict) else {}
        if message.get("tool_calls"):
            return self._generation(self._called(message["tool_calls"]), answer | {"finish_reason": "stop"})
        return self._generation(message.get("content"), answer)

    def generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Generation]:
        """One answer per prompt of token ids, a call each."""
        generations = []
        for prompt in prompts:
            [answer] = self._choices(self._post("completions", {"prompt": list(prompt), **self._settings(decoding)}), 1)
            generations.append(self._generation(answer.get("text"), answer))
        return generations

    def stream(self, prompt: Sequence[int], decoding: Decoding) -> Iterator[Delta]:
        """One answer in pieces; closing the iterator closes the connection. Not retried: half an answer may be out already."""
        body = {"model": self.model, "prompt": list(prompt), "stream": True, **self._settings(decoding)}
        self.attempts += 1
        try:
            with self._client.stream("POST", "completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    self._fail(self._reason(response))
                for line in response.iter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        yield self._delta(line[6:])
        except self._errors as broken:
            self._fail(f"the connection broke: {type(broken).__name__}", broken)
        self._fail("the stream ended before [DONE]")

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> list[list[float]]:
        """Not over this wire: raises InputError."""
        raise InputError(Problem("engine endpoint", "an endpoint gives no probabilities of options", "use chat(..., choice=[...])"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _settings(self, decoding: Decoding) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_tokens": decoding.max_new_tokens, "temperature": decoding.temperature, "top_p": decoding.top_p, "seed": decoding.seed}
        if decoding.top_k:
            settings["top_k"] = decoding.top_k
        if decoding.min_p:
            settings["min_p"] = decoding.min_p
        if decoding.repetition_penalty != 1:
            settings["repetition_penalty"] = decoding.repetition_penalty
        if decoding.stop:
            settings["stop"] = list(decoding.stop)
        return settings | ({} if decoding.constraint is None else _constrained(decoding.constraint))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        wait, reason, cause = _BACKOFF_S, "", None
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(min(wait, _LONGEST_WAIT_S))
            self.attempts += 1
            wait, cause = _BACKOFF_S * 2**attempt, None
            try:
                response = self._client.post(path, json={"model": self.model, **body})
            except self._errors as broken:
                reason, cause = f"no answer: {type(broken).__name__}", broken
                continue
            if response.status_code == 200:
                return self._json(response.text)
            reason = self._reason(response)
            if response.status_code not in _AGAIN:
                break
            told = response.headers.get("retry-after", "")
            wait = float(told) if told.isdecimal() else wait
        self._fail(reason, cause)

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as wrong:
            self._fail("the answer is not JSON", wrong)

    def _choices(self, answer: Any, count: int) -> list[dict[str, Any]]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != count or not all(isinstance(each, dict) for each in choices):
            self._fail("the answer is not in OpenAI's shape")
        return choices

    def _called(self, given: Any) -> str:
        try:
            made = calls(given, 1)[0]
        except Refused as wrong:
            self._fail(f"its tool calls are not in OpenAI's shape: {wrong.fault.why}", wrong)
        return said(Message(role="assistant", content="", tool_calls=tuple(ToolCall(**call) for call in made)))

    def _generation(self, text: Any, answer: dict[str, Any]) -> Generation:
        finish = self._finish(answer.get("finish_reason"))
        if not isinstance(text, str) or finish is None:
            self._fail("the answer is not in OpenAI's shape")
        return Generation(text=text, token_ids=(), finish=finish)

    def _delta(self, data: str) -> Delta:
        chunk = self._json(data)
        if isinstance(chunk, dict) and "error" in chunk:
            self._fail("the endpoint failed in the middle of an answer")
        [choice] = self._choices(chunk, 1)
        return Delta(text=str(choice.get("text") or ""), finish=self._finish(choice.get("finish_reason")))

    def _finish(self, reason: Any) -> Literal["stop", "length"] | None:
        if reason not in ("stop", "length", None):
            self._fail(f"the answer finished for a reason we do not know: {str(reason)[:40]}")
        return reason  # type: ignore[no-any-return]

    def _reason(self, response: Any) -> str:
        try:
            message = str(response.json()["error"]["message"])[:200]
        except (ValueError, KeyError, TypeError):
            message = ""
        return f"HTTP {response.status_code}" + (f": {message}" if message else "")

    def _fail(self, why: str, cause: BaseException | None = None) -> NoReturn:
        where = f"endpoint {self._client.base_url.host}:{self._client.base_url.port or ''}".rstrip(":")
        raise RunFailed(Problem(where, why, "check that it is up and serves this model"), reason_code="endpoint_failed") from cause


def _constrained(constraint: Constraint) -> dict[str, Any]:
    """A constraint in the request: OpenAI's words for a schema, vLLM's for the rest. Raises InputError for a grammar, whose dialect every server has of its own."""
    if constraint.kind == "json_schema":
        schema = {"name": "answer", "schema": json.loads(constraint.text), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if constraint.kind == "grammar":
        raise InputError(
            Problem("decoding.constraint", "the engine endpoint lacks grammars: every server reads a dialect of its own", "give a regex or a JSON Schema")
        )
    return {"structured_outputs": {constraint.kind: json.loads(constraint.text) if constraint.kind == "choice" else constraint.text}}


def openai_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as OpenAI's API takes them. Calls without an id, and their results, are numbered as the template numbers them, so that both render alike (R-5)."""
    turns: list[dict[str, Any]] = []
    waiting: list[str] = []
    numbered = 0
    for message in messages:
        turn = openai_turn(message.model_copy(update={"weight": None}))
        for call in turn.get("tool_calls", ()):
            numbered += 1
            call.setdefault("id", f"call{numbered:05d}")
            waiting.append(call["id"])
        if message.role == "tool":
            turn.setdefault("tool_call_id", waiting[0] if waiting else "")
            waiting = [each for each in waiting if each != turn["tool_call_id"]]
        turns.append(turn)
    return turns


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
