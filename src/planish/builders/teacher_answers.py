"""Rows for sft out of what a teacher wrote: cut and wrong answers are left out, and so is one that says what another of the same prompt says (MISSION S3).

Source: sequence-level distillation, Kim & Rush 2016, arXiv 1606.07947. No shared tokenizer is needed. What is kept is kept byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, Literal, NamedTuple

from planish.data.normalise import normalised
from planish.data.task import said
from planish.data.verify import Asked, require_options, verify
from planish.data.written import turn
from planish.errors import InputError, Problem
from planish.rows import ChatRow, Message


class Written(NamedTuple):
    """One answer of the teacher to a row's prompt, and why it ended: stop, length, or failed."""

    row: ChatRow
    text: str
    finish: str


class Built(NamedTuple):
    """The rows as `messages`, and the counts: `written` is the sum of the others."""

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def build(
    answers: Seq[Written],
    *,
    verifier: Literal["none", "numeric", "exact", "regex", "json_schema", "composite"] = "none",
    options: dict | None = None,  # type: ignore[type-arg]
) -> Built:
    """Hold every answer to `verifier` (planish.data.verify, with its `options`) against the row's own right answer, at a score of 1.

    Raises InputError for options that the verifier has no use for, or a right answer that cannot be held against.
    """
    given = options or {}
    require([answer.row for answer in answers], verifier=verifier, options=given)
    counts = dict.fromkeys(("failed", "cut", "empty", "unverified", "duplicate", "kept"), 0)
    rows, seen = [], set[tuple[str, str]]()
    for answer in answers:
        fate = _fate(answer, verifier, given, seen)
        counts[fate] += 1
        if fate == "kept":
            rows.append(_row(answer))
    return Built(rows, {"written": len(answers), **counts})


def require(
    rows: Seq[ChatRow], *, verifier: Literal["none", "numeric", "exact", "regex", "json_schema", "composite"] = "none", options: dict[str, Any] | None = None
) -> None:
    """Raises InputError, as `build` would, for an unknown verifier, options that it has no use for, and right answers that cannot be held against."""
    if verifier == "none":
        return
    require_options(verifier, options or {}, "builders.teacher_answers")
    problems: list[Problem] = []
    for row in rows:
        try:
            verify("0", _asked(row), verifier, options or {})  # any answer makes it read the reference
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))


def _asked(row: ChatRow) -> Asked:
    return Asked(f"row {row.id}", said(row.messages[-1]), tuple(message.content for message in row.messages[:-1]))


def _fate(answer: Written, verifier: str, options: dict[str, Any], seen: set[tuple[str, str]]) -> str:
    if answer.finish == "failed":
        return "failed"
    if answer.finish != "stop":
        return "cut"
    if not answer.text.strip():
        return "empty"
    if verifier != "none" and verify(answer.text, _asked(answer.row), verifier, options).score < 1:
        return "unverified"
    key = answer.row.id, normalised(answer.text)
    if key in seen:
        return "duplicate"
    seen.add(key)
    return "kept"


def _row(answer: Written) -> dict[str, Any]:
    messages = [turn(message) for message in (*answer.row.messages[:-1], Message(role="assistant", content=answer.text))]
    return {"messages": messages, **({"tools": list(answer.row.tools)} if answer.row.tools else {}), "prompt_id": answer.row.id}
