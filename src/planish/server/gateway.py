"""One request on its way through: its parameters, its slot, its answer, its log record and its figures."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from planish.data.request_log import Finish, LogRecord, RequestLog
from planish.data.said_calls import said_calls
from planish.errors import PlanishError
from planish.model.constraint import Constraint
from planish.model.engine import Decoding, Delta
from planish.rows import ToolCall
from planish.server import openai_shapes as shapes
from planish.server.admission import RETRY_AFTER_S, Admission
from planish.server.generation import Answer, EngineFailed, chosen, streamed
from planish.server.metrics import Metrics
from planish.server.refusal import Refusal
from planish.server.schema import ChatRequest, CompletionRequest
from planish.server.served import Served

_log = logging.getLogger("planish.server")
_T = TypeVar("_T")


class Gateway:
    """What the requests of one served model share. Lives on one event loop."""

    def __init__(self, served: Served, log: RequestLog, *, slots: int, queue: int) -> None:
        self.served = served
        self.log = log
        self.admission = Admission(slots, queue)
        self.draining = False
        self.inside = 0  # requests between their first and last byte
        self._tokenizer = ThreadPoolExecutor(1, thread_name_prefix="planish-tokenizer")  # one thread: tokenizers are not safe to share
        self.metrics = metrics = Metrics()
        self.count_request = metrics.counter("planish_requests_total", "Requests by route and status.")
        self.count_tokens = metrics.counter("planish_tokens_total", "Tokens by kind.")
        self.count_finish = metrics.counter("planish_answers_total", "Answers by how they finished.")
        self.observe_latency = metrics.histogram("planish_request_duration_seconds", "From admission asked for to the last token.")
        self.observe_first = metrics.histogram("planish_time_to_first_token_seconds", "From admission asked for to the first piece.")
        metrics.gauge("planish_slots_busy", "Slots whose engine is at work.", lambda: self.admission.running)
        metrics.gauge("planish_queue_waiting", "Requests that wait for a slot.", lambda: self.admission.waiting)
        metrics.gauge("planish_log_dropped_total", "Log records that could not be written.", lambda: log.dropped, kind="counter")
        metrics.gauge("planish_unproven", "1 when the model did not pass its gate.", lambda: int(served.unproven))

    async def chat_prompt(self, request: ChatRequest) -> list[int]:
        """The prompt ids of a conversation, through the one template function."""
        messages, tools = [message.plain() for message in request.messages], request.offered
        prompt = await self._tokenized(partial(self.served.render, messages, tools), "messages")
        if tools and prompt == await self._tokenized(partial(self.served.render, messages, ()), "messages"):
            raise Refusal(400, "tools: this model's chat template leaves them out, so it could not call them", code="unsupported_by_template", param="tools")
        return prompt

    async def text_prompt(self, request: CompletionRequest) -> list[int]:
        """The ids of a plain prompt: given, or encoded without a template."""
        prompt = request.prompt
        first = prompt[0] if isinstance(prompt, list) and isinstance(prompt[0], str | list) else prompt
        if isinstance(first, str):
            return await self._tokenized(partial(self.served.encode, first), "prompt")
        ids = [each for each in first if isinstance(each, int)] if isinstance(first, list) else []
        if any(each >= self.served.vocab_size for each in ids):
            raise Refusal(400, f"a token id is outside the vocabulary of {self.served.vocab_size}", code="invalid_value", param="prompt")
        return ids

    async def _tokenized(self, work: Callable[[], list[int]], param: str) -> list[int]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._tokenizer, work)
        except PlanishError as wrong:
            raise Refusal(400, str(wrong), code="invalid_value", param=param) from wrong
        except Exception as wrong:  # a template refuses a conversation by whatever its author raised; the message may quote the conversation
            _log.warning("%s could not be rendered: %s", param, type(wrong).__name__)
            raise Refusal(400, f"{param}: this model's template cannot render it", code="invalid_value", param=param) from wrong

    async def options(self, request: ChatRequest | CompletionRequest, prompt: Sequence[int]) -> list[list[int]]:
        """The token ids of the labels in `structured_outputs.choice`; empty when the answer is free."""
        labels = request.structured_outputs.choice if request.structured_outputs else None
        if labels is None:
            return []
        param = "structured_outputs.choice"
        options = [await self._tokenized(partial(self.served.encode, label), param) for label in labels]
        for index, option in enumerate(options):
            if not option or option in options[:index]:
                why = "is the same as an earlier label" if option else "has no tokens"
                raise Refusal(400, f"label {index} {why}", code="invalid_value", param=param)
        if len(prompt) + max(map(len, options)) + 1 > self.served.context_length:
            raise Refusal(400, "the prompt and the longest label do not fit the context", code="context_length_exceeded", param=param)
        return [[*option, self.served.end] for option in options]  # with the end of the turn no label begins another

    def decoding(self, request: ChatRequest | CompletionRequest, prompt: Sequence[int]) -> Decoding:
        """How to sample: the request's settings over the served model's own; `max_tokens` clamped to what the context still holds."""
        room = self.served.context_length - len(prompt)
        if room < 1:
            message = f"the prompt has {len(prompt)} tokens and the context holds {self.served.context_length}, the answer's included"
            raise Refusal(400, message, code="context_length_exceeded", param="messages" if isinstance(request, ChatRequest) else "prompt")
        asked = request.max_completion_tokens if isinstance(request, ChatRequest) and request.max_completion_tokens else request.max_tokens
        stop = request.stop
        given: dict[str, Any] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty,
            "seed": request.seed,
            "constraint": _constraint(request),
            "stop": None if stop is None else ((stop,) if isinstance(stop, str) else tuple(stop)),
            "max_new_tokens": min(asked or self.served.decoding.max_new_tokens, room),
        }
        return replace(self.served.decoding, **{name: value for name, value in given.items() if value is not None})

    def refuse_when_draining(self) -> None:
        """503 once the gateway is going down."""
        if self.draining:
            raise Refusal(503, "the gateway is shutting down", code="draining", retry_after=RETRY_AFTER_S)


class Exchange:
    """One prompt and its answer. `start()` takes a slot; then either `whole()` or `events()`; the log record is written on every way out."""

    def __init__(
        self, gateway: Gateway, kind: shapes.Kind, prompt: list[int], decoding: Decoding, *, labels: Sequence[str], options: list[list[int]],
        content: dict[str, Any] | None, tools: Sequence[dict[str, Any]] = (),
    ) -> None:  # fmt: skip
        self.gateway = gateway
        self.kind = kind
        self.prompt = prompt
        self.decoding = decoding
        self.labels = labels
        self.options = options
        self.content = content  # None: the client opted out
        self.offered = {tool["function"]["name"] for tool in tools}
        self.id = ("chatcmpl-" if kind == "chat" else "cmpl-") + secrets.token_hex(12)
        now = datetime.now(UTC)
        self.ts = now.isoformat(timespec="milliseconds")
        self.head = {
            "id": self.id,
            "created": int(now.timestamp()),
            "model": gateway.served.name,
            "system_fingerprint": f"fp_{gateway.served.package_hash[:12]}",
        }
        self.began = time.monotonic()
        self.first: float | None = None
        self.parts: list[str] = []
        self.tokens = 0
        self.finish: Finish = "cancelled"
        self._written: asyncio.Future[bool] | None = None

    async def start(self) -> None:
        """Take a slot and set the engine to work. Raises Refusal (429)."""
        await self.gateway.admission.enter()
        engine = self.gateway.served.engine
        make: Callable[[], Iterator[Delta]] = streamed(engine, self.prompt, self.decoding)
        if self.options:
            make = chosen(engine, self.prompt, self.labels, self.options)
        self.answer = Answer(make, self.gateway.admission.leave)

    async def whole(self) -> dict[str, Any]:
        """The whole answer: the stream, joined. Raises Refusal when the engine fails."""
        try:
            async for _ in self._deltas():
                pass
            counts, finish = shapes.usage(len(self.prompt), self.tokens), self.finish
        finally:
            acknowledged = self.ended()
        await acknowledged
        return shapes.completion(self.kind, self.head, "".join(self.parts), finish, counts, self.calls())

    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that the whole answer makes of the tools on offer; none where it was cut, or calls anything else: then it is text."""
        said = said_calls("".join(self.parts)).calls if self.offered and self.finish == "stop" else ()
        return said if {call.name for call in said} <= self.offered else ()

    async def events(self, include_usage: bool) -> AsyncIterator[bytes]:
        """The answer as server-sent events. The record is on disk before the last of them. Where tools are on offer the text is held back until it is known to be no call."""
        try:
            if self.kind == "chat":
                yield shapes.event(shapes.chunk(self.kind, self.head, text="", role=True))
            async for delta in self._deltas():
                if delta is None:
                    yield b": ping\n\n"
                elif delta.text and not self.offered:
                    yield shapes.event(shapes.chunk(self.kind, self.head, text=delta.text))
            finish = self.finish
        except Refusal as refusal:
            self.ended()
            yield shapes.event(refusal.body)
            return
        await self.ended()
        calls = self.calls()
        if calls:
            yield shapes.event(shapes.calls_chunk(self.head, calls))
        elif self.offered:
            yield shapes.event(shapes.chunk(self.kind, self.head, text="".join(self.parts)))
        yield shapes.event(shapes.chunk(self.kind, self.head, finish="tool_calls" if calls else finish))
        if include_usage:
            yield shapes.event(shapes.usage_chunk(self.kind, self.head, shapes.usage(len(self.prompt), self.tokens)))
        yield b"data: [DONE]\n\n"

    async def _deltas(self) -> AsyncIterator[Delta | None]:
        finish: Finish | None = None
        try:
            async for delta in self.answer.deltas():
                if delta is not None:
                    if self.first is None:
                        self.first = time.monotonic()
                    self.parts.append(delta.text)
                    self.tokens += len(delta.token_ids)
                    finish = delta.finish or finish
                yield delta
        except EngineFailed as failure:
            self.finish = "error"
            _log.error("the engine %s failed: %s", self.gateway.served.engine.name, failure)
            raise Refusal(503, f"the engine failed: {failure}", code="engine_failed", retry_after=RETRY_AFTER_S) from failure
        if finish is None:
            self.finish = "error"
            raise Refusal(503, "the engine ended its answer without saying why", code="engine_failed", retry_after=RETRY_AFTER_S)
        self.finish = finish

    def ended(self) -> asyncio.Future[bool]:
        """Stop the engine, hand the record to the log, count; once. Returns what to wait for before the answer may be called complete."""
        self.answer.cancel()
        if self._written is not None:
            return self._written
        ended = time.monotonic()
        gateway = self.gateway
        gateway.count_finish(reason=self.finish)
        gateway.count_tokens(len(self.prompt), kind="prompt")
        gateway.count_tokens(self.tokens, kind="completion")
        gateway.observe_latency(ended - self.began)
        if self.first is not None:
            gateway.observe_first(self.first - self.began)
        record = LogRecord(
            id=self.id,
            ts=self.ts,
            model=gateway.served.name,
            template_hash=gateway.served.template_hash,
            params={name: value for name, value in asdict(self.decoding).items() if name not in ("stop", "constraint")},  # those are the client's words
            prompt_tokens=len(self.prompt),
            completion_tokens=self.tokens,
            latency_ms=round((ended - self.began) * 1e3, 3),
            ttft_ms=None if self.first is None else round((self.first - self.began) * 1e3, 3),
            finish=self.finish,
            content=None if self.content is None else {**self.content, "stop": self.decoding.stop, "choice": self.labels, "answer": "".join(self.parts)},
            consent="opt_out" if self.content is None else "default",
        )
        self._written = asyncio.wrap_future(gateway.log.write(record))
        return self._written


class EventStream(StreamingResponse):
    """An exchange as server-sent events. However the response ends, and even if it never begins, the engine is stopped and the record written."""

    def __init__(self, exchange: Exchange, include_usage: bool) -> None:
        super().__init__(exchange.events(include_usage), media_type="text/event-stream")
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._exchange.ended()


def _constraint(request: ChatRequest | CompletionRequest) -> Constraint | None:
    """The form that the request asks for; labels are chosen, not written. Raises Refusal (400) naming what masks cannot hold."""
    told, form = request.structured_outputs, request.response_format
    try:
        if told is not None and told.regex is not None:
            return Constraint.regex(told.regex)
        if told is not None and told.grammar is not None:
            return Constraint.grammar(told.grammar)
        if form is not None and form.json_schema is not None:
            return Constraint.json_schema(form.json_schema.form)
        return Constraint.json_object() if form is not None and form.type == "json_object" else None
    except PlanishError as refused:
        param = "response_format" if form is not None and form.type != "text" else "structured_outputs"
        raise Refusal(400, str(refused), code="unsupported_schema", param=param) from refused


async def unless_gone(receive: Callable[[], Awaitable[Any]], work: Coroutine[Any, Any, _T]) -> _T:
    """Do `work`, and cancel it when the client goes away first. Raises CancelledError then."""
    doing = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watching = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
        return await doing
    finally:
        watching.cancel()
        doing.cancel()
