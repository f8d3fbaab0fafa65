"""Prompts tidied in stated steps; answers are never touched (MISSION D4)."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from planish.data.damage import CONTROL, ZERO_WIDTH
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import ChatRow, ExtractionRow, Message, PreferenceRow, QuestionRow, Row, SummaryRow, TextRow, UnpairedRow

_SPACES = re.compile("[\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


def _whitespace(text: str) -> str:
    """Line feeds only, plain spaces only, none at line ends, no more than one empty line, none around the text. Indentation and inner spaces stay: they may be
    code or a table."""
    lines = _SPACES.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip("\n").strip() if text.strip() else ""


STEPS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "control": lambda text: ZERO_WIDTH.sub("", CONTROL.sub("", text)),
    "whitespace": _whitespace,
}
"""What may be done to a prompt, by name."""


class Change(NamedTuple):
    """One text of a row, before and after."""

    field: str
    before: str
    after: str

    def diff(self) -> str:
        """Unified diff of the lines, with invisible characters written out."""
        before, after = ([line.encode("unicode_escape").decode() for line in text.split("\n")] for text in (self.before, self.after))
        return "\n".join(difflib.unified_diff(before, after, f"{self.field} before", f"{self.field} after", lineterm="", n=0))


def cleaned(row: Row, steps: Sequence[str] = ("nfc", "control", "whitespace")) -> tuple[Row, tuple[Change, ...]]:
    """The row with its prompts tidied, and what was changed; the row itself where nothing was.

    Answers, labels, the assistant's turns and a text that spans point into stay as they are. A prompt that would become empty stays too.
    Raises InputError on an unknown step.
    """
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        raise InputError(*(Problem("data.clean", f'unknown step "{step}"', did_you_mean(step, STEPS)) for step in unknown))
    changes: list[Change] = []

    def tidy(field: str, text: str) -> str:
        after = text
        for step in steps:
            after = STEPS[step](after)
        if after == text or not after:
            return text
        changes.append(Change(field, text, after))
        return after

    def turns(field: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(
            message if message.role == "assistant" else message.model_copy(update={"content": tidy(f"{field}[{number}].content", message.content)})
            for number, message in enumerate(messages)
        )

    update: dict[str, object]
    match row:
        case ChatRow():
            update = {"messages": turns("messages", row.messages)}
        case PreferenceRow() | UnpairedRow():
            update = {"prompt": turns("prompt", row.prompt)}
        case QuestionRow():
            documents = tuple(tidy(f"documents[{number}]", text) for number, text in enumerate(row.documents))
            update = {"question": tidy("question", row.question), "documents": documents}
        case SummaryRow():
            update = {"document": tidy("document", row.document)}
        case ExtractionRow() if row.entities is not None:
            update = {}
        case ExtractionRow() | TextRow():
            update = {"text": tidy("text", row.text)}
        case _:
            field = "text" if row.shape == "label" else "prompt"
            update = {field: tidy(field, getattr(row, field))}
    return (row.model_copy(update=update), tuple(changes)) if changes else (row, ())
