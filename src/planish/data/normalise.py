"""When two rows count as the same: one normalisation, shared by the checks, the split, the gold set and feedback (MISSION D5)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from planish.rows import ChatRow, LabelRow, Message, PromptCompletionRow, Row, content_hash


def normalised(text: str) -> str:
    """NFKC, lower case, every run of whitespace one space, none at the ends."""
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)  # ASCII is NFKC already
    return " ".join(folded.lower().split())


def duplicate_key(row: Row) -> str:
    """sha256 over all trained fields, normalised: two rows with one key teach the same thing."""
    return content_hash([row.shape, *(normalised(field) for field in _trained_fields(row))])


def input_key(row: Row) -> str:
    """sha256 over what is asked, normalised, without the answer: two rows with one key are one question.

    It joins rows whatever their answers, so every duplicate cluster lies inside one input key.
    """
    return content_hash([row.shape, *(normalised(field) for field in _input_fields(row))])


def messages_key(messages: Sequence[Message]) -> str:
    """sha256 over the roles and normalised contents of a prompt."""
    return content_hash([[message.role, normalised(message.content)] for message in messages])


def _trained_fields(row: Row) -> list[str]:
    if isinstance(row, LabelRow):
        return [row.text, row.label]
    if isinstance(row, ChatRow):
        return [part for message in row.messages for part in (message.role, message.content)]
    if isinstance(row, PromptCompletionRow):
        return [row.prompt, row.completion]
    return [row.text]


def _input_fields(row: Row) -> list[str]:
    if isinstance(row, ChatRow):
        return [part for message in row.messages[:-1] for part in (message.role, message.content)]
    if isinstance(row, PromptCompletionRow):
        return [row.prompt]
    return [row.text]
