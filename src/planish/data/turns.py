"""The turns of a dialogue, brought to one form and held to the contract: roles and their order, contents, weights, calls and results (MISSION D2)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from planish.data import tool_calls
from planish.data.fault import Refused
from planish.errors import did_you_mean
from planish.rows import RejectCode

Value = dict[str, Any]

BLANK = (
    string.whitespace
    + "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\u180e\u00ad\ufeff\x00"
    + "".join(map(chr, (*range(0x2000, 0x2010), *range(0x2060, 0x2065))))
)
"""Characters that nobody sees: white space, and what has no width."""

ROLES = ("system", "user", "assistant", "tool")
_FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
_KNOWN = frozenset(("role", "content", "weight", "tool_calls", "tool_call_id", "name", "function_call"))


def read(turns: Sequence[Value], columns: Value, key: str = "message") -> list[Value]:
    """The turns as messages. Keys that no message has go to `columns`, by the 1-based number of the turn. Raises Refused."""
    made = []
    for number, turn in enumerate(turns, start=1):
        content = turn.get("content")
        if len(turn) == 2 and type(content) is str and turn.get("role") in ROLES:  # by far the most turns
            made.append({"content": content, "role": turn["role"]})
        else:
            made.append(_message(turn, number, columns, key))
    return made


def filled(messages: Sequence[Value]) -> None:
    """Every turn says something, but a system's or a tool's, or one that calls. Raises Refused."""
    for message in messages:
        if not message["content"].strip(BLANK) and message["role"] not in ("system", "tool") and not message.get("tool_calls"):
            empty = RejectCode.EMPTY_ANSWER if message["role"] == "assistant" else RejectCode.MISSING_FIELD
            raise Refused(empty, f"a turn of the {message['role']} is empty", "write the turn, or remove the row")


def _message(turn: Value, number: int, columns: Value, key: str) -> Value:
    role, calls = turn.get("role"), turn.get("tool_calls")
    if calls is None and turn.get("function_call") is not None:
        calls = [turn["function_call"]]
    if "role" not in turn or ("content" not in turn and not calls):
        absent = [name for name in ("role", "content") if name not in turn]
        raise Refused(RejectCode.MISSING_FIELD, f"{key} {number} has no {' and no '.join(absent)}", "a message needs: role, content")
    role = "tool" if role == "function" else role
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(RejectCode.UNKNOWN_ROLE, f'{key} {number} has the role "{role}"', did_you_mean(str(role), ROLES))
    made: Value = {"content": _content(turn.get("content"), number, key), "role": role, **_weight(turn, role, number, key)}
    for name in ("tool_call_id", "name"):
        if turn.get(name) is not None:
            if not isinstance(turn[name], str):
                raise Refused(RejectCode.WRONG_TYPE, f"the {name} of {key} {number} is a {type(turn[name]).__name__}, not text", "write it as text")
            made[name] = turn[name]
    others = {name: item for name, item in turn.items() if name not in _KNOWN and item is not None and not (name == "loss" and "weight" in made)}
    if calls is not None and calls != [] and calls != ():
        if role != "assistant":
            raise Refused(RejectCode.ROLE_ORDER, f"{key} {number} is {role} and calls a tool", "only the assistant calls tools")
        made["tool_calls"], more = tool_calls.calls(calls, number)
        others |= {"tool_calls": more} if more else {}
    if "tool_call_id" in made and role != "tool":
        raise Refused(RejectCode.ROLE_ORDER, f"{key} {number} is {role} and answers a call", "only a tool's turn has a tool_call_id")
    if others:
        columns[str(number)] = others
    return made


def _weight(turn: Value, role: str, number: int, key: str) -> Value:
    """Whether a turn is trained, where it says so: `weight` as OpenAI has it, or `loss` of an answer as ms-swift has it."""
    weight = turn.get("weight")
    if weight is None and role == "assistant" and isinstance(turn.get("loss"), bool):
        return {"weight": float(turn["loss"])}
    if weight is None:
        return {}
    if isinstance(weight, bool) or weight not in (0, 1):
        raise Refused(RejectCode.WRONG_TYPE, f"the weight of {key} {number} is {weight!r}", "a weight is 0 or 1")
    return {"weight": float(weight)}


def _content(content: Any, number: int, key: str) -> str:
    """Text, or the texts of a list of parts, one behind the other. Null is empty text."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        what = "has parts that are no text" if isinstance(content, list) else f"is a {type(content).__name__}, not text"
        raise Refused(RejectCode.WRONG_TYPE, f"the content of {key} {number} {what}", "write the content as text")
    return content


def order(messages: Sequence[Value]) -> None:
    """Allowed: system at most once and first; user; then assistant, which tool results and more assistant turns may follow; assistant last. Raises Refused."""
    before = ""
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role not in _FOLLOWS[before]:
            after = f"after {before}" if before else "first"
            raise Refused(RejectCode.ROLE_ORDER, f"message {number} is {role} {after}", f"allowed here: {' or '.join(_FOLLOWS[before])}")
        before = role
    if before != "assistant":
        raise Refused(RejectCode.ROLE_ORDER, f"the last message is {before}", "end with the assistant's answer")


def answered(messages: Sequence[Value]) -> None:
    """Somebody answers. Raises Refused."""
    for message in messages:
        if message["role"] == "assistant":
            return
    raise Refused(RejectCode.NO_ASSISTANT_TURN, "no turn is the assistant's", "add the assistant's answer as the last message")


def scored(messages: Sequence[Value]) -> None:
    """Some answer is trained. Raises Refused."""
    for message in messages:
        if message["role"] == "assistant" and message.get("weight") != 0:
            return
    raise Refused(RejectCode.NO_SCORED_TOKENS, "every answer has weight 0, so nothing would be trained", "give one answer weight 1")
