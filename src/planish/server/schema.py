"""What a request may say: OpenAI's fields that we serve, with their limits; every other field is refused by name (MISSION V1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from planish.errors import did_you_mean
from planish.rows import Message, ToolCall
from planish.server.refusal import Refusal

MAX_BODY_BYTES = 1_000_000
MAX_MESSAGES = 256
MAX_CHOICES = 256
MAX_TOOLS = 128
MAX_PATTERN = 10_000

# A client that spells out "no" asks for nothing: these values, and null, are accepted for fields we do not serve.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
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


def _object(given: Any) -> Any:
    """OpenAI writes the arguments of a call as JSON text."""
    try:
        value = json.loads(given, parse_constant=_no_constant) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        raise ValueError("the arguments are not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("the arguments are no JSON object")
    return value


class CalledFunction(_Strict):
    """What an earlier answer called."""

    name: _NonEmpty
    arguments: Annotated[dict[str, Any], BeforeValidator(_object)]


class CalledTool(_Strict):
    """A call in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Strict):
    """One turn of a request. A list of text parts is joined. An assistant's turn may call tools in place of saying something; a tool's turn answers a call."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] = ""
    tool_calls: Annotated[list[CalledTool], Field(max_length=MAX_TOOLS)] = []
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if "content" not in self.model_fields_set and not self.tool_calls:
            raise ValueError("needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a turn of role {self.role} calls no tools")
        if (self.tool_call_id is None) == (self.role == "tool"):
            raise ValueError("tool_call_id: a turn of role tool names the call that it answers, and no other does")
        return self

    def plain(self) -> Message:
        """The turn as the template function takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        made = tuple(ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id) for call in self.tool_calls)
        return Message(role=self.role, content=text, tool_calls=made, tool_call_id=self.tool_call_id, name=self.name)


class Tool(_Strict):
    """A tool on offer, in OpenAI's form."""

    type: Literal["function"]
    function: dict[str, Any]

    @field_validator("function")
    @classmethod
    def _named(cls, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name")
        if not isinstance(name, str) or not name or not isinstance(given.get("parameters", {}), dict):
            raise ValueError("needs a name, and parameters that are a JSON Schema object")
        return given


class StructuredOutputs(_Strict):
    """vLLM's name for constrained output: one of the three. `grammar` is in llguidance's Lark dialect (MISSION E3)."""

    choice: Annotated[list[_NonEmpty], Field(min_length=2, max_length=MAX_CHOICES)] | None = None
    regex: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] | None = None
    grammar: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)] | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of choice, regex and grammar")
        return self


class JsonSchemaFormat(_Strict):
    """OpenAI's wrapping of a schema; name and description change no answer, and the schema is always kept strictly."""

    name: str = ""
    description: str = ""
    form: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(_Strict):
    """The form that an answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _with_its_schema(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema stands beside the type json_schema, and only there")
        return self


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
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    structured_outputs: StructuredOutputs | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _one_form(self) -> GenerationRequest:
        if self.structured_outputs is not None and self.response_format is not None and self.response_format.type != "text":
            raise ValueError("structured_outputs and response_format both ask for a form: give one of them")
        return self


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] = []
    tool_choice: Literal["auto", "none"] = "auto"

    @property
    def offered(self) -> tuple[dict[str, Any], ...]:
        """The tools that the answer may call."""
        return () if self.tool_choice == "none" else tuple(tool.model_dump() for tool in self.tools)


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
    if kept.get("tool_choice", "auto") not in ("auto", "none"):
        raise unsupported("tool_choice other than auto and none", engine)
    if kept.get("tools") and fields.get("parallel_tool_calls") is False:
        raise unsupported("parallel_tool_calls=false", engine)
    constraint = kept.get("structured_outputs")
    if isinstance(constraint, Mapping):
        constraint = {name: value for name, value in constraint.items() if value is not None}
        for name in constraint:
            if name not in StructuredOutputs.model_fields:
                raise unsupported(f"structured_outputs.{name[:64]}", engine)
        kept["structured_outputs"] = constraint
    return kept


def _plain_turn(turn: Any, where: str, engine: str) -> Any:
    """A turn without its null fields; refuses what only a tool-using or multi-modal model could read."""
    if not isinstance(turn, dict):
        return turn
    kept = {name: value for name, value in turn.items() if value is not None}
    for name in ("function_call", "audio", "refusal"):
        if kept.get(name):
            raise unsupported(f"{where}.{name}", engine)
        kept.pop(name, None)
    if kept.get("role") in ("function", "developer"):
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
