"""When two rows count as the same: one normalisation, shared by the checks, the split, the gold set and feedback (MISSION D5)."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from planish.data.damage import ZERO_WIDTH
from planish.rows import (
    ChatRow,
    ExtractionRow,
    LabelRow,
    Message,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    Row,
    StepsRow,
    SummaryRow,
    UnpairedRow,
    canonical_json,
)

SIZE = 16
"""Bytes of a digest: two different rows of a billion share one with probability 1e-21."""


class Fields(NamedTuple):
    """What a row asks and what it answers, as the texts that are trained on. A document asks itself and has no answer."""

    question: tuple[str, ...]
    answer: tuple[str, ...]


def normalised(text: str) -> str:
    """NFKC, lower case, no zero-width characters, every run of whitespace one space, none at the ends."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", ZERO_WIDTH.sub("", text)).lower()  # ASCII is NFKC already
    if folded.isascii() and folded.isprintable() and "  " not in folded and folded[:1] != " " and folded[-1:] != " ":
        return folded  # its only white space are single blanks between words
    return " ".join(folded.split())


def digest(shape: str, fields: Iterable[str]) -> bytes:
    """The first 16 bytes of sha256 over normalised fields, each closed by a byte that no text holds after normalisation."""
    return hashlib.sha256("\x1f".join([shape, *map(normalised, fields)]).encode()).digest()[:SIZE]


def fields(row: Row) -> Fields:
    """Question and answer of a row. A dialogue asks everything before its last turn."""
    match row:
        case LabelRow():
            return Fields((row.text,), (row.label,))
        case ChatRow():
            return Fields(_turns(row.messages[:-1]) + tuple(map(canonical_json, row.tools)), _turns(row.messages[-1:]))
        case PromptCompletionRow():
            return Fields((row.prompt,), (row.completion,))
        case ExtractionRow():
            answer = row.fields if row.entities is None else [entity.model_dump() for entity in row.entities]
            return Fields((row.text,), (canonical_json(answer),))
        case SummaryRow():
            return Fields((row.document,), (row.summary,))
        case QuestionRow():
            return Fields((row.question, *row.documents), (row.answer,))
        case PreferenceRow():
            return Fields(_turns(row.prompt), (*_turns(row.chosen), "over", *_turns(row.rejected)))
        case UnpairedRow():
            return Fields((*_turns(row.prompt), *_turns(row.completion)), (str(row.label),))
        case StepsRow():
            return Fields((row.prompt, *row.completions), tuple(map(str, row.labels)))
    return Fields((row.text,), ())


def question_key(row: Row) -> bytes:
    """What is asked, without the answer: two rows with one key are one question. Every duplicate cluster lies inside one question."""
    return digest(row.shape, fields(row).question)


def prompt_digest(row: Row) -> bytes:
    """The prompt alone of a row whose question holds an answer; of any other its question."""
    match row:
        case UnpairedRow():
            return digest(row.shape, _turns(row.prompt))
        case StepsRow():
            return digest(row.shape, (row.prompt,))
    return question_key(row)


def _turns(messages: Sequence[Message]) -> tuple[str, ...]:
    """Role and content of each turn, and its calls where it makes any."""
    parts: list[str] = []
    for message in messages:
        parts += (message.role, message.content)
        if message.tool_calls:
            parts.append(canonical_json([[call.name, call.arguments] for call in message.tool_calls]))
    return tuple(parts)
