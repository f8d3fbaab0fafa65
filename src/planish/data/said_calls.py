"""The tool calls that an answer makes, in the notations of the main model families.

Read are: OpenAI's JSON (a list of calls, one call, or a message with `tool_calls`), JSON between <tool_call> tags (Hermes, Qwen, SmolLM), JSON behind
[TOOL_CALLS] (Mistral) or <|python_tag|>, several parted by `;` (Llama 3, whose arguments stand under `parameters`), and Python calls
`[f(a=1), g(b="x")]` (Llama 3.2+, Gorilla). An answer in none of these is text, which calls nothing."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple

from planish.data.fault import Refused
from planish.data.json_text import depth, parse
from planish.data.tool_calls import calls
from planish.python_source import parsed
from planish.rows import ToolCall

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_OPENING = re.compile(r"\[TOOL_CALLS\]|<\|python_tag\|>")
_FENCE = re.compile(r"```(?:json|python|tool_code)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_CLOSING = re.compile(r"(?:<\|eom_id\|>|<\|eot_id\|>|</s>)\s*\Z")
MAX_DEPTH = 32
"""Deeper Python notation is not parsed: it would exhaust the parser's stack."""


class Said(NamedTuple):
    """What an answer calls. `calls` is empty for text; `broken` says why what is marked or shaped as a call is none that a tool could run."""

    calls: tuple[ToolCall, ...] = ()
    broken: str | None = None

    @property
    def tried(self) -> bool:
        """Whether the answer calls a tool, or tries to."""
        return bool(self.calls) or self.broken is not None


def said_calls(answer: str) -> Said:
    """The calls in the whole answer, in their order."""
    text = _CLOSING.sub("", answer.strip())
    if "<tool_call>" in text:
        return _joined([_marked(part.strip()) for part in _TAGGED.findall(text)])
    if opening := _OPENING.search(text):
        return _joined([_marked(part.strip()) for part in _parted(text[opening.end() :])])
    if fence := _FENCE.fullmatch(text):
        text = fence.group(1).strip()
    return _shaped(text) or Said()


def _joined(parts: list[Said]) -> Said:
    broken = next((part.broken for part in parts if part.broken), None)
    return Said((), broken) if broken else Said(tuple(call for part in parts for call in part.calls))


def _marked(text: str) -> Said:
    """A part that a marker says is a call."""
    return _shaped(text) or Said(broken="what is marked as a call is none")


def _shaped(text: str) -> Said | None:
    """A text that has the shape of calls, or None."""
    if text[:1] in ("{", "["):
        try:
            return _from_json(parse(text))
        except ValueError as wrong:
            # Python's list of calls opens with a bracket too
            return _from_python(text) or (Said(broken=f"it is not JSON: {wrong}") if re.search(r'"(name|function|tool_calls)"\s*:', text) else None)
    return _from_python(text)


def _from_json(value: Any) -> Said | None:
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) and _is_call(item) for item in items):
        return None
    try:
        read, _ = calls([_with_arguments(item) for item in items], 1)
    except Refused as refused:
        return Said(broken=str(refused))
    return Said(tuple(ToolCall(name=call["name"], arguments=call["arguments"]) for call in read))


def _is_call(item: dict[str, Any]) -> bool:
    """An object about something else may have a name too: a call has arguments, or nothing but its name."""
    return "function" in item or ("name" in item and ("arguments" in item or "parameters" in item or item.keys() <= {"name", "id", "type"}))


def _with_arguments(item: dict[str, Any]) -> dict[str, Any]:
    """Llama 3 says `parameters` for `arguments`, and its fine-tunes say the name under `function`."""
    if isinstance(item.get("function"), str) and "name" not in item:
        item = {"name": item["function"], **{key: part for key, part in item.items() if key != "function"}}
    return {**item, "arguments": item["parameters"]} if "parameters" in item and "arguments" not in item else item


def _parted(text: str) -> list[str]:
    """Llama 3 parts calls by `;`, which may stand inside a text too: the parts are taken as few as can be read."""
    parts, taken = text.split(";"), []
    start = 0
    for end in range(1, len(parts) + 1):
        candidate = ";".join(parts[start:end]).strip()
        if end == len(parts) or _reads(candidate):
            taken.append(candidate)
            start = end
    return [part for part in taken if part] or [""]


def _reads(text: str) -> bool:
    found = _shaped(text)
    return found is not None and found.broken is None


def _from_python(text: str) -> Said | None:
    """Calls by keyword with literal values; None for what is no Python call at all."""
    if "(" not in text or not text.endswith((")", "]")) or depth(text.replace("(", "[").replace(")", "]")) > MAX_DEPTH:
        return None
    try:
        tree = parsed(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    assert isinstance(tree, ast.Expression)
    body = tree.body
    nodes = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
    if not nodes or not all(isinstance(node, ast.Call) for node in nodes):
        return None
    found = []
    for node in nodes:
        assert isinstance(node, ast.Call)
        name = ast.unparse(node.func)
        if not all(part.isidentifier() for part in name.split(".")):
            return None
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            return Said(broken=f"{name} is called without the names of its arguments")
        try:
            arguments = {str(keyword.arg): _plain(ast.literal_eval(keyword.value)) for keyword in node.keywords}
        except (ValueError, TypeError, RecursionError):
            return Said(broken=f"an argument of {name} is no plain value")
        found.append(ToolCall(name=name, arguments=arguments))
    return Said(tuple(found))


def _plain(value: Any) -> Any:
    """A Python literal as JSON would hold it. Raises ValueError for what JSON cannot hold."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is no text")
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and abs(value) != float("inf")):
        return value
    raise ValueError(f"a {type(value).__name__} is no JSON value")
