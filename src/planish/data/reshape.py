"""Rows of one shape as rows of another, and what that loses (MISSION D1).

A question with one answer is the same thing under many names: prompt and completion, text and label, document and summary, question and answer, or a dialogue of
two turns. Between these only names change. What else can be brought over loses something, which is said; what means nothing in another shape is not brought over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from planish.data.json_text import parse
from planish.rows import (
    ChatRow,
    ExtractionRow,
    LabelRow,
    Message,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    Row,
    SummaryRow,
    TextRow,
    UnpairedRow,
    canonical_json,
)


class Reshaped(NamedTuple):
    """The rows that a row becomes, and what they lack that it had. No rows: it cannot be brought over, for the reason in `lost`."""

    rows: tuple[Row, ...]
    lost: tuple[str, ...] = ()


_PAIRS: dict[str, tuple[type[Row], str, str]] = {
    "prompt_completion": (PromptCompletionRow, "prompt", "completion"),
    "label": (LabelRow, "text", "label"),
    "summary": (SummaryRow, "document", "summary"),
    "question": (QuestionRow, "question", "answer"),
}
REACHABLE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*_PAIRS, "chat"), (*_PAIRS, "chat", "text", "extraction")),
    "extraction": (*_PAIRS, "chat", "text"),
    "preference": ("chat", "unpaired"),
    "unpaired": ("chat",),
}
"""Which other shapes the rows of a shape can be brought to."""


def reshape(row: Row, shape: str) -> Reshaped:
    """The row in another shape, one that `REACHABLE` has for it."""
    if row.shape == shape:
        return Reshaped((row,))
    if isinstance(row, PreferenceRow):
        return _of_preference(row, shape)
    if isinstance(row, UnpairedRow):
        if not row.label:
            return Reshaped((), ("a row whose answer is bad",))
        return Reshaped((_made(ChatRow, row, messages=row.prompt + row.completion),), ("label",))
    if shape == "text" and isinstance(row, ChatRow):
        return Reshaped((_made(TextRow, row, text=_joined(row.messages)),), ("roles", *_beside(row.messages, row.tools)))
    pair = _pair(row)
    if pair is None:
        return Reshaped((), ("a dialogue of more than a question and an answer",))
    asked, said, lost = pair
    if shape == "text":
        return Reshaped((_made(TextRow, row, text=f"{asked}\n\n{said}"),), (*lost, "where the answer begins"))
    if shape == "extraction":
        return _extracted(row, asked, said, lost)
    if shape == "chat":
        return Reshaped((_made(ChatRow, row, messages=(Message(role="user", content=asked), Message(role="assistant", content=said))),), lost)
    kind, first, second = _PAIRS[shape]
    return Reshaped((_made(kind, row, **{first: asked, second: said}),), lost)


def _made(kind: type[Row], row: Row, **fields: Any) -> Row:
    made: Row = kind(id=row.id, origin=row.origin, group=row.group, extra=row.extra, **fields)
    return made


def _pair(row: Row) -> tuple[str, str, tuple[str, ...]] | None:
    """Question, answer, and what else there was; None for a row that is more than that."""
    if row.shape in _PAIRS:
        _, first, second = _PAIRS[row.shape]
        return getattr(row, first), getattr(row, second), ("documents",) if isinstance(row, QuestionRow) and row.documents else ()
    if isinstance(row, ExtractionRow):
        return row.text, canonical_json(row.fields if row.entities is None else [entity.model_dump() for entity in row.entities]), ()
    if not isinstance(row, ChatRow):
        return None
    rest = row.messages[1:] if row.messages[0].role == "system" else row.messages
    if [message.role for message in rest] != ["user", "assistant"] or rest[1].tool_calls:
        return None
    system = ("system",) if len(rest) < len(row.messages) else ()
    return rest[0].content, rest[1].content, system + _beside(rest, row.tools)


def _beside(messages: Sequence[Message], tools: Sequence[Any]) -> tuple[str, ...]:
    """What turns have besides role and content."""
    held = [name for name in ("weight", "tool_calls", "tool_call_id", "name") if any(getattr(message, name) not in (None, ()) for message in messages)]
    return (*held, *(["tools"] if tools else []))


def _joined(messages: Sequence[Message]) -> str:
    return "\n\n".join(message.content for message in messages if message.content)


def _of_preference(row: PreferenceRow, shape: str) -> Reshaped:
    if shape == "chat":
        return Reshaped((_made(ChatRow, row, messages=row.prompt + row.chosen, tools=row.tools),), ("rejected",))
    lost = ("which answer was compared with which", *(["tools"] if row.tools else []))
    return Reshaped(
        tuple(_made(UnpairedRow, row, prompt=row.prompt, completion=answer, label=good) for answer, good in ((row.chosen, True), (row.rejected, False))), lost
    )


def _extracted(row: Row, asked: str, said: str, lost: tuple[str, ...]) -> Reshaped:
    """The answer as JSON: an object is the fields, a list the entities."""
    try:
        value = parse(said)
    except ValueError:
        value = None
    if not isinstance(value, dict | list):
        return Reshaped((), ("an answer that is no JSON object or list",))
    try:
        return Reshaped((_made(ExtractionRow, row, text=asked, **{"fields" if isinstance(value, dict) else "entities": value}),), lost)
    except ValueError:
        return Reshaped((), ("an answer that lists no entities",))
