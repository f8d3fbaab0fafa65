# ruff: noqa: E402  (the extra is checked before the packages it brings are imported)
"""The gateway: OpenAI's endpoints in front of one served model, with keys, limits, a bounded queue, a redacted log and metrics (MISSION V1)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from planish.lazy import require

require("fastapi", extra="serve")  # before the imports below, so that a missing extra is named

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from planish.data.request_log import Correction, RequestLog
from planish.rows import Message
from planish.server import openai_shapes as shapes
from planish.server.gateway import EventStream, Exchange, Gateway, unless_gone
from planish.server.guard import Guard
from planish.server.keys import KeyRing
from planish.server.refusal import Refusal
from planish.server.schema import MAX_BODY_BYTES, ChatRequest, CompletionRequest, FeedbackRequest, parse
from planish.server.served import Served

BODY_TIMEOUT_S = 10.0


def create_app(served: Served, *, log: RequestLog, keys: KeyRing | None, slots: int = 2, queue: int = 32, hosts: Sequence[str] = ()) -> FastAPI:
    """The application for one served model.

    `keys` None asks nobody for a key: `serve` accepts that on loopback only. `slots` answers run at once and `queue` requests wait; the next gets 429.
    `hosts` are names, beyond loopback, that the Host header may carry. `app.state.gateway` is the Gateway, `app.state.keys` the ring.
    """
    gateway = Gateway(served, log, slots=slots, queue=queue)
    app = FastAPI(title="planish", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.gateway = gateway
    app.state.keys = keys

    def inside(change: int) -> None:
        gateway.inside += change

    app.add_middleware(
        Guard,
        keys=keys,
        hosts=hosts,
        unproven=served.unproven,
        seen=lambda route, status: gateway.count_request(route=route, status=str(status)),
        inside=inside,
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    _public(app, gateway)
    _inference(app, gateway)
    _feedback(app, gateway)
    return app


def _public(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready")
    async def ready() -> Response:
        return JSONResponse({"status": "draining" if gateway.draining else "ready"}, 503 if gateway.draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(gateway.metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return shapes.model_list(gateway.served)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _same_model(name, gateway)
        [only] = shapes.model_list(gateway.served)["data"]
        return dict(only)


def _inference(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = parse(await _body(request), ChatRequest, engine=gateway.served.engine.name)
        _same_model(asked.model, gateway)
        prompt = await gateway.chat_prompt(asked)
        content: dict[str, Any] = {"messages": [_logged(message.plain()) for message in asked.messages]}
        if asked.offered:
            content["tools"] = list(asked.offered)
        return await _answer(request, gateway, "chat", asked, prompt, content)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        asked = parse(await _body(request), CompletionRequest, engine=gateway.served.engine.name)
        _same_model(asked.model, gateway)
        prompt = await gateway.text_prompt(asked)
        return await _answer(request, gateway, "text", asked, prompt, {"prompt": asked.prompt})


def _logged(message: Message) -> dict[str, Any]:
    """A turn as the log keeps it: role and content, and the calls and results of tools where it has them."""
    said = message.model_dump(mode="json")
    return {name: value for name, value in said.items() if name in ("role", "content") or value}


async def _answer(
    request: Request, gateway: Gateway, kind: shapes.Kind, asked: ChatRequest | CompletionRequest, prompt: list[int], content: dict[str, Any]
) -> Response:
    gateway.refuse_when_draining()
    exchange = Exchange(
        gateway,
        kind,
        prompt,
        gateway.decoding(asked, prompt),
        labels=(asked.structured_outputs.choice if asked.structured_outputs else None) or (),
        options=await gateway.options(asked, prompt),
        tools=asked.offered if isinstance(asked, ChatRequest) else (),
        content=None if request.headers.get("x-planish-opt-out", "0").strip() not in ("", "0") else content,
    )
    try:
        await unless_gone(request.receive, exchange.start())
        if asked.stream:
            include_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return EventStream(exchange, include_usage)
        return JSONResponse(await unless_gone(request.receive, exchange.whole()))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Response(status_code=499)  # nobody is there to read it; the figure is for the metrics


def _feedback(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/feedback")
    async def feedback(request: Request) -> dict[str, str]:
        asked = parse(await _body(request), FeedbackRequest, engine=gateway.served.engine.name)
        record = await asyncio.to_thread(gateway.log.find, asked.log_id)
        if record is None:
            raise Refusal(404, "no request with this id was logged", code="unknown_log_id", param="log_id")
        if record.content is None:
            raise Refusal(409, "the text of this request was not kept, so there is nothing to correct", code="content_not_kept", param="log_id")
        correction = Correction(log_id=asked.log_id, corrected=asked.corrected, ts=datetime.now(UTC).isoformat(timespec="milliseconds"))
        if not await asyncio.wrap_future(gateway.log.correct(correction)):
            raise Refusal(503, "the correction could not be stored", code="not_stored", retry_after=1)
        return {"object": "feedback", "log_id": asked.log_id, "status": "stored"}


async def _body(request: Request) -> bytes:
    """The body, bounded in bytes and in time. Raises Refusal."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise Refusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes", code="body_too_large")
                parts.append(part)
    except TimeoutError as slow:
        raise Refusal(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s", code="body_timeout") from slow
    return b"".join(parts)


def _same_model(name: str, gateway: Gateway) -> None:
    if name != gateway.served.name:
        raise Refusal(404, f'there is no model "{name[:128]}" here; the model is "{gateway.served.name}"', code="model_not_found", param="model")


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _not_served(request: Request, failure: Exception) -> Response:
    assert isinstance(failure, HTTPException)
    refusal = Refusal(failure.status_code, str(failure.detail), code="method_not_allowed" if failure.status_code == 405 else "not_found")
    return JSONResponse(refusal.body, refusal.status, failure.headers)
