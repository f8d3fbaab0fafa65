"""The objects OpenAI's client reads: completions, chunks and the model list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from planish.rows import ToolCall, canonical_json
from planish.server.served import Served

Kind = Literal["chat", "text"]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts of one answer."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}


def tool_calls(id: str, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls as OpenAI writes them, their arguments as JSON text; each has an id of its own, made of the answer's."""
    return [
        {"id": f"call_{id[-12:]}{place}", "type": "function", "function": {"name": call.name, "arguments": canonical_json(call.arguments)}}
        for place, call in enumerate(calls)
    ]


def completion(kind: Kind, head: dict[str, Any], text: str, finish: str, counts: dict[str, int], calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    """A whole answer; where it calls tools, the calls stand in place of its text."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "tool_calls" if calls else finish}
    if calls:
        choice["message"] = {"role": "assistant", "content": None, "refusal": None, "tool_calls": tool_calls(head["id"], calls)}
    elif kind == "chat":
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    return {**head, "object": "chat.completion" if kind == "chat" else "text_completion", "choices": [choice], "usage": counts}


def calls_chunk(head: dict[str, Any], calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The calls of a streamed answer, whole."""
    delta = {"tool_calls": [{"index": place, **call} for place, call in enumerate(tool_calls(head["id"], calls))]}
    return {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "logprobs": None, "finish_reason": None, "delta": delta}]}


def chunk(kind: Kind, head: dict[str, Any], *, text: str | None = None, role: bool = False, finish: str | None = None) -> dict[str, Any]:
    """A piece of a streamed answer."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
    if kind == "chat":
        choice["delta"] = ({"role": "assistant"} if role else {}) | ({} if text is None else {"content": text})
    else:
        choice["text"] = text or ""
    return {**head, "object": "chat.completion.chunk" if kind == "chat" else "text_completion", "choices": [choice]}


def usage_chunk(kind: Kind, head: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """The last chunk when `include_usage` was asked for."""
    return {**head, "object": "chat.completion.chunk" if kind == "chat" else "text_completion", "choices": [], "usage": counts}


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event. JSON escapes line ends, so no text can forge an event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def model_list(served: Served) -> dict[str, Any]:
    """GET /v1/models, with what OpenAI's shape lacks: how long, from which package, judged on which gold set, and whether it is unproven."""
    model = {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "planish",
        "context_length": served.context_length,
        "engine": served.engine.name,
        "unproven": served.unproven,
        "package_sha256": served.package_hash or None,
        "gold_sha256": served.gold_hash or None,
    }
    return {"object": "list", "data": [model]}
