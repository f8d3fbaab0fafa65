"""The chat template: the one renderer for training, evaluation and serving, in transformers' immutable sandbox (MISSION K1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, NamedTuple

from planish.errors import InputError, Problem
from planish.model.outline import Outline, Outlines, outline
from planish.rows import Message, RejectCode, ToolCall

_PROBE_TOOL = {
    "type": "function",
    "function": {"name": "planish_tool", "description": "a probe", "parameters": {"type": "object", "properties": {"key": {"type": "string"}}}},
}
_PROBE = (
    Message(role="user", content="a question"),
    Message(role="assistant", content="", tool_calls=(ToolCall(name="planish_tool", arguments={"planish_argument": "planish value"}),)),
)
_TEMPLATE_FAULTS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What a template raises besides Jinja's own errors when it meets a conversation it was not written for."""


class Refused(Exception):
    """A conversation that cannot be trained on or asked, with its reason code."""

    def __init__(self, code: RejectCode, why: str) -> None:
        self.code, self.why = code, why
        super().__init__(code, why)  # both, so that it survives the way back from another process

    def __str__(self) -> str:
        return f"{self.code}: {self.why}"


class Rendering(NamedTuple):
    """One text that is wanted. With `prompt`, the header that asks for an answer is at its end: at inference, and to find where an answer begins."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    prompt: bool = False


class Template:
    """The template of a tokenizer, and what it was found to need when it was tried."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special: dict[str, str] = dict(tokenizer.special_tokens_map)
        self._known: dict[str, Any] = {}
        self._outlined: dict[tuple[str, bool], Outlines] = {}

    @cached_property
    def sha256(self) -> str:
        """Of the template's text; of all of them where a tokenizer names several."""
        given = self.tokenizer.chat_template
        return hashlib.sha256((given if isinstance(given, str) else json.dumps(given, sort_keys=True)).encode()).hexdigest()

    @property
    def reads_the_clock(self) -> bool:
        """Whether the text depends on the day it is rendered."""
        return "strftime_now" in str(self.tokenizer.chat_template)

    @cached_property
    def arguments(self) -> Literal["object", "text"] | None:
        """How this family wants a call's arguments, found by rendering one call both ways; None: it has no place for calls.

        A family that writes JSON itself encodes a string twice; one that expects JSON text writes an object as Python, or fails.
        """
        kinds: tuple[Literal["object", "text"], ...] = ("object", "text")
        for kind in kinds:
            text = self._written([_turns(_PROBE, kind)], (_PROBE_TOOL,), prompt=False)[0]
            wrong = ("'planish_argument'", '\\"planish_argument')
            if isinstance(text, str) and "planish value" in text and "planish_argument" in text and not any(one in text for one in wrong):
                return kind
        return None

    def render(self, wanted: Iterable[Rendering]) -> list[str | Refused]:
        """The text of each in order, or why the template cannot write it. Plain dialogues fill in the outline of their shape; of the others, neighbours with equal
        tools are rendered by one call."""
        wanted = list(wanted)
        said = [None if one.tools else _said(one.messages) for one in wanted]
        outlines = [self._outlines(prompt) for prompt in (False, True)] if any(said) else []
        filled = [None if plain is None else outlines[one.prompt].filled(*plain) for one, plain in zip(wanted, said, strict=True)]
        others = iter(self._rendered([one for one, text in zip(wanted, filled, strict=True) if text is None]))
        return [next(others) if text is None else text for text in filled]

    def outline(self, roles: tuple[str, ...], contents: Iterable[str], prompt: bool) -> Outline | None:
        """What the template writes for plain turns of these roles without tools, contents left open; None where it cannot be followed."""
        outlines = self._outlines(prompt)
        return outline(outlines.compiled, outlines.given, roles, list(contents)) if outlines.follows else None

    def _rendered(self, wanted: list[Rendering]) -> list[str | Refused]:
        found: list[str | Refused] = []
        for (tools, prompt, calls), group in groupby(wanted, key=lambda one: (one.tools, one.prompt, any(message.tool_calls for message in one.messages))):
            if calls and self.arguments is None:
                why = "the template has no place for tool calls: it leaves them out, or writes them as no reader could parse"
                found += [Refused(RejectCode.UNKNOWN_ROLE, why) for _ in group]
            else:
                arguments = self.arguments if calls else None
                found += self._written([_turns(one.messages, arguments) for one in group], tools, prompt)
        return found

    def _compiled(self, text: str) -> Any:
        """The template as transformers compiles it, in its immutable sandbox. What we give it is plain text, numbers, lists and dicts, so that nothing needs copying first.

        Its globals are laid flat: Jinja keeps them in a chain of maps that every rendering copies, key by key.
        """
        if text not in self._known:
            from jinja2.exceptions import TemplateSyntaxError
            from transformers.utils import chat_template_utils

            try:
                compiled = chat_template_utils._compile_jinja_template(text)
            except TemplateSyntaxError as broken:
                why = f"is no Jinja: line {broken.lineno}: {broken.message}"
                raise InputError(Problem("the chat template", why, "mend chat_template.jinja in the model's folder")) from broken
            compiled.globals = dict(compiled.globals)
            self._known[text] = compiled
        return self._known[text]

    def _outlines(self, prompt: bool) -> Outlines:
        """Those of the template for dialogues without tools."""
        text = self.tokenizer.get_chat_template(tools=None)
        if (text, prompt) not in self._outlined:
            self._outlined[text, prompt] = Outlines(self._compiled(text), text, self._given((), prompt))
        return self._outlined[text, prompt]

    def _given(self, tools: tuple[dict[str, Any], ...], prompt: bool) -> dict[str, Any]:
        """What a template is given besides the turns."""
        return {"tools": list(tools) or None, "documents": None, "add_generation_prompt": prompt, **self.special}

    def _written(self, conversations: list[list[dict[str, Any]]], tools: tuple[dict[str, Any], ...], prompt: bool) -> list[str | Refused]:
        from jinja2.exceptions import TemplateError

        more = self._given(tools, prompt)
        compiled = self._compiled(self.tokenizer.get_chat_template(tools=more["tools"]))
        try:
            return [compiled.render(more, messages=turns) for turns in conversations]
        except (TemplateError, *_TEMPLATE_FAULTS) as why:
            if len(conversations) == 1:
                return [_refused(why, conversations[0])]
        half = len(conversations) // 2  # one conversation that fails must not fail its neighbours
        return self._written(conversations[:half], tools, prompt) + self._written(conversations[half:], tools, prompt)


def _said(messages: tuple[Message, ...]) -> tuple[tuple[str, ...], list[str]] | None:
    """Roles and contents of turns that hold nothing else for a template; None where one calls, answers a call or has a name."""
    roles, contents = [], []
    for message in messages:
        if message.tool_calls or message.name or message.role == "tool":
            return None
        roles.append(message.role)
        contents.append(message.content)
    return tuple(roles), contents


def _refused(why: Exception, conversation: list[dict[str, Any]]) -> Refused:
    said = str(why) or type(why).__name__
    if "alternat" in said.lower():
        return Refused(RejectCode.ROLE_ORDER, f"the template refuses the order of the turns: {said}")
    roles = ", ".join(dict.fromkeys(turn["role"] for turn in conversation)) or "no turn"
    return Refused(RejectCode.UNKNOWN_ROLE, f"the template refuses this conversation ({roles}): {said}")


def _turns(messages: tuple[Message, ...], arguments: Literal["object", "text"] | None) -> list[dict[str, Any]]:
    """Messages in the field's shape. Calls without an id are numbered, and results without one take them in order: some families demand nine letters or digits."""
    turns: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    numbered = 0
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                numbered += 1
                id = call.id or f"call{numbered:05d}"
                waiting.append((id, call.name))
                given = json.dumps(call.arguments, ensure_ascii=False) if arguments == "text" else call.arguments
                calls.append({"type": "function", "id": id, "function": {"name": call.name, "arguments": given}})
            turn["tool_calls"] = calls
        elif message.role == "tool":
            mine = next((pair for pair in waiting if pair[0] == message.tool_call_id), waiting[0] if waiting and not message.tool_call_id else None)
            if mine:
                waiting.remove(mine)
            turn["tool_call_id"], turn["name"] = message.tool_call_id or (mine[0] if mine else ""), message.name or (mine[1] if mine else "")
        if message.name:
            turn["name"] = message.name
        turns.append(turn)
    return turns
