"""Rows of which nothing would be trained, or all of it, or other tokens than serving sends: the silent faults of a loss mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.measured import measure
from planish.rows import NoteCode, RejectCode

TOKENS = True
"""This check looks at tokens, so it needs the model's tokenizer and template."""

FIXES = {
    RejectCode.NO_SCORED_TOKENS: "give the row an answer, or leave its weight out; text without a question is for continued pretraining",
    RejectCode.NOT_A_PREFIX: "look at the row with planish mask FILE --row ID; train the last answer alone with turns: last",
}


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Chat | None = None, *, turns: Literal["all", "last"] = "all") -> CheckResult:
    """A finding per row without a trained token, per row whose prompt is no prefix, and a note where every token would be trained (MISSION K2).

    `figures`: tokens, trained tokens and their share, over all rows that can be trained on. Raises InputError without a tokenizer.
    """
    if chat is None:
        raise InputError(Problem("checks.mask", "counts trained tokens and was given no tokenizer", "name a model in the recipe"))
    measured = measure(rows, chat, turns)
    findings = [
        Finding(row_id=id, code=fault.code, severity="reject", why=fault.why, fix=FIXES[fault.code]) for id, fault in measured.faults() if fault.code in FIXES
    ]
    for id, row in zip(measured.ids, measured.rows, strict=True):
        if row.length and row.scored >= row.length - 1:  # nothing predicts the first token
            why, fix = "every token of it would be trained: it has no prompt", "give the question as a turn of its own, or train it as text"
            findings.append(Finding(row_id=id, code=NoteCode.ALL_TOKENS_SCORED, severity="warn", why=why, fix=fix))
    tokens = int(measured.lengths.sum())
    figures: dict[str, Any] = {"rows": len(measured.lengths), "tokens": tokens, "trained": measured.scored, "share": measured.share, "turns": turns}
    return CheckResult(findings=tuple(findings), figures=figures)
