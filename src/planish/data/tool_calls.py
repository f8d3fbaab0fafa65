"""Tool calls as files write them, brought to one form and held to the catalogue (MISSION D1, D2).

`arguments` is an object, or JSON text of one; text of text (encoded twice) is refused, because a model trained on it learns to answer with a string. A catalogue
entry is `{type: function, function: {name, description, parameters}}`; the bare function of older files is put into that form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planish.data.fault import Refused
from planish.data.json_schema import mismatch
from planish.data.json_text import parse, structure
from planish.errors import did_you_mean
from planish.rows import RejectCode

Value = dict[str, Any]


def catalogue(tools: Any) -> list[Value]:
    """The tools on offer, each in OpenAI's form; an empty list when there are none. Raises Refused."""
    tools = structure(tools)
    if tools is None or tools == "":
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Refused(RejectCode.WRONG_TYPE, "its tools are no list of objects", 'write "tools": [{"type": "function", "function": {...}}]')
    made = []
    for number, tool in enumerate(tools, start=1):
        wrapped = tool if isinstance(tool.get("function"), dict) else {"type": "function", "function": tool}
        if not isinstance(wrapped["function"].get("name"), str) or not wrapped["function"]["name"]:
            raise Refused(RejectCode.MISSING_FIELD, f"tool {number} has no name", 'write "function": {"name": ..., "parameters": {...}}')
        made.append(wrapped)
    return made


def calls(given: Any, number: int) -> tuple[list[Value], Value]:
    """The calls of message `number` as {name, arguments, id}, and by the 1-based number of the call the keys that no call needs. Raises Refused."""
    given = structure(given)
    if not isinstance(given, list) or not all(isinstance(call, dict) for call in given):
        raise Refused(RejectCode.WRONG_TYPE, f"the tool_calls of message {number} are no list of objects", 'write "tool_calls": [{"function": {...}}]')
    made, more = [], {}
    for place, call in enumerate(given, start=1):
        function = call["function"] if isinstance(call.get("function"), dict) else call
        if call.get("type", "function") not in ("function", None):
            raise Refused(RejectCode.WRONG_TYPE, f'a call of message {number} has the type "{call["type"]}"', "only functions are called")
        name, own = function.get("name"), call.get("id")
        if not isinstance(name, str) or not name:
            raise Refused(RejectCode.MISSING_FIELD, f"a call of message {number} names no tool", 'write {"name": ..., "arguments": {...}}')
        if own is not None and not isinstance(own, str):
            raise Refused(RejectCode.WRONG_TYPE, f"the id of a call of message {number} is a {type(own).__name__}", "write the id as text")
        made.append({"name": name, "arguments": _arguments(function.get("arguments"), name)} | ({} if own is None else {"id": own}))
        known = ("name", "arguments", "id", "type", "function")
        others = {key: item for part in (call, function) for key, item in part.items() if key not in known and item is not None}
        if others:
            more[str(place)] = others
    return made, more


def _arguments(given: Any, name: str) -> Value:
    if given is None:
        return {}
    if isinstance(given, str):
        try:
            given = parse(given)
        except ValueError as broken:
            raise Refused(RejectCode.TOOL_ARGS_INVALID, f"the arguments of {name} are not JSON: {broken}", "write them as an object") from broken
        if isinstance(given, str):
            raise Refused(RejectCode.TOOL_ARGS_INVALID, f"the arguments of {name} are encoded twice", "write them as an object, or encode them once")
    if not isinstance(given, dict):
        raise Refused(RejectCode.TOOL_ARGS_INVALID, f"the arguments of {name} are a {type(given).__name__}, not an object", 'write {"argument": value}')
    return given


def hold(messages: Sequence[Value], tools: Sequence[Value]) -> None:
    """Hold calls to the catalogue, if there is one, and results to the calls they answer. Raises Refused: tool_unknown, tool_args_invalid."""
    offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    open_calls: list[Value] = []
    for number, message in enumerate(messages, start=1):
        if message["role"] == "tool":
            _answer(message, number, open_calls)
            continue
        open_calls = list(message.get("tool_calls") or ())
        ids = [call["id"] for call in open_calls if "id" in call]
        if len(set(ids)) < len(ids):
            raise Refused(RejectCode.TOOL_UNKNOWN, f"two calls of message {number} have one id", "give every call its own id")
        for call in open_calls if offered else ():
            if call["name"] not in offered:
                raise Refused(RejectCode.TOOL_UNKNOWN, f'message {number} calls "{call["name"]}", which is not on offer', did_you_mean(call["name"], offered))
            wrong = mismatch(call["arguments"], offered[call["name"]])
            if wrong:
                raise Refused(RejectCode.TOOL_ARGS_INVALID, f"message {number} calls {call['name']}: {wrong}", "write the arguments that the tool takes")


def _answer(message: Value, number: int, open_calls: list[Value]) -> None:
    """Take the call that a tool's turn answers off the open ones: by id, else by name, else the first."""
    wanted, name = message.get("tool_call_id"), message.get("name")
    for place, call in enumerate(open_calls):
        if (wanted is None or call.get("id", wanted) == wanted) and (wanted is not None or name is None or call["name"] == name):
            del open_calls[place]
            return
    called = f'the call "{wanted}"' if wanted is not None else f"a call of {name}" if name is not None else "a call"
    raise Refused(RejectCode.TOOL_UNKNOWN, f"message {number} answers {called}, which the turn before did not make", "put a tool's result behind its call")
