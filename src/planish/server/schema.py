"""What a request may say: OpenAI's fields that we serve, with their limits; every other field is refused by name (MISSION V1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planish.errors import did_you_mean
from planish.rows import Message
from planish.server.refusal import Refusal

MAX_BODY_BYTES = 1_000_000
MAX_MESSAGES = 256
MAX_CHOICES = 256

# A client that spells out "no" asks for nothing: these values, and null, are accepted for fields we do not serve.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": (),
    "web_search_options": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
}
_IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})  # they change no answer, and are not logged

_NonEmpty = Annotated[str, Field(min_length=1, max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextPart(_Strict):
    """A piece of text in a message given as a list of parts."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One turn of a request. A list of text parts is joined."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> Message:
        """The turn as the template function takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=self.role, content=text)


class StructuredOutputs(_Strict):
    """vLLM's name for constrained output; `choice` is the one kind served here (MISSION E3)."""

    choice: Annotated[list[_NonEmpty], Field(min_length=2, max_length=MAX_CHOICES)]


class StreamOptions(_Strict):
    """`include_usage`: a last chunk with the token counts."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class GenerationRequest(_Strict):
    """What chat and plain completion share. None means: the served model's own setting."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: _NonEmpty | Annotated[list[_NonEmpty], Field(max_length=16)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    structured_outputs: StructuredOutputs | None = None


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions: a text, or the token ids of one prompt."""

    prompt: (
        str
        | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=1)]
        | Annotated[list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]], Field(min_length=1, max_length=1)]
    )


class FeedbackRequest(_Strict):
    """POST /v1/feedback: what the answer of a logged request should have been. `log_id` is the response's id."""

    log_id: Annotated[str, Field(pattern=r"^[a-z]+-[0-9a-f]{24}$")]
    corrected: Annotated[str, Field(min_length=1, max_length=100_000)]


_Request = TypeVar("_Request", bound=BaseModel)


def parse(body: bytes, shape: type[_Request], *, engine: str) -> _Request:
    """The request in a body. Raises Refusal (400) in OpenAI's shape: not JSON, a feature that `engine` lacks, an unknown field, a wrong value."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as wrong:
        raise Refusal(400, "the body is not JSON", code="invalid_json") from wrong
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object", code="invalid_json")
    fields = {name: each for name, each in value.items() if each is not None and name not in _IGNORED}
    if issubclass(shape, GenerationRequest):
        fields = _served(fields, shape, engine)
    try:
        return shape.model_validate(fields)
    except ValidationError as wrong:
        problems = wrong.errors(include_url=False, include_input=False, include_context=False)
        lines = [f"{_path(problem['loc'])}: {problem['msg']}" for problem in problems[:5]]
        raise Refusal(400, "; ".join(lines), code="invalid_value", param=_path(problems[0]["loc"]) or None) from wrong


def _served(fields: dict[str, Any], shape: type[GenerationRequest], engine: str) -> dict[str, Any]:
    """The fields we serve; refuses the first that we know and do not serve, or do not know at all."""
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if name in shape.model_fields:
            kept[name] = value
        elif name not in _UNSUPPORTED:
            message = f'"{name[:64]}" is not a known request field; {did_you_mean(name[:64], shape.model_fields)}'
            raise Refusal(400, message, code="unknown_parameter", param=name[:64])
        elif not any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in _UNSUPPORTED[name]):
            raise unsupported(name, engine)
    if isinstance(kept.get("messages"), list):
        kept["messages"] = [_plain_turn(turn, f"messages.{index}", engine) for index, turn in enumerate(kept["messages"][: MAX_MESSAGES + 1])]
    constraint = kept.get("structured_outputs")
    if isinstance(constraint, Mapping):
        constraint = {name: value for name, value in constraint.items() if value is not None}
        for name in constraint:
            if name != "choice":
                raise unsupported(f"structured_outputs.{name[:64]}", engine)
        kept["structured_outputs"] = constraint
    return kept


def _plain_turn(turn: Any, where: str, engine: str) -> Any:
    """A turn without its null fields; refuses what only a tool-using or multi-modal model could read."""
    if not isinstance(turn, dict):
        return turn
    kept = {name: value for name, value in turn.items() if value is not None}
    for name in ("tool_calls", "function_call", "tool_call_id", "name", "audio", "refusal"):
        if kept.get(name):
            raise unsupported(f"{where}.{name}", engine)
        kept.pop(name, None)
    if kept.get("role") in ("tool", "function", "developer"):
        raise unsupported(f"{where}.role={kept['role']}", engine)
    for part in kept["content"] if isinstance(kept.get("content"), list) else ():
        if isinstance(part, dict) and part.get("type") in ("image_url", "input_audio", "file", "refusal"):
            raise unsupported(f"{where}.content.{part['type']}", engine)
    return kept


def unsupported(feature: str, engine: str) -> Refusal:
    """A feature that the engine lacks: 400, naming both."""
    return Refusal(400, f'"{feature}" is not supported by the engine "{engine}"', code="unsupported_by_engine", param=feature)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(step)[:64] for step in location[:4])
