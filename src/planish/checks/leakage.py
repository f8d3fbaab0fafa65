"""Training or validation rows that ask what a gold row asks, after normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planish.data.finding import Finding
from planish.data.normalise import input_key
from planish.errors import InputError, Problem
from planish.rows import RejectCode, Row

AFTER_SPLIT = True
"""This check compares splits, so it runs once they exist."""


def check(rows: Sequence[Row], split: Mapping[str, str] | None = None) -> list[Finding]:
    """A finding per leaking row, with the gold row in `see` (MISSION D9, exact). Gold itself is never touched. Raises InputError without a split."""
    if split is None:
        raise InputError(Problem("checks.leakage", "compares train with gold and was given no split", "run it after the split"))
    gold: dict[str, str] = {}
    for row in rows:
        if split.get(row.id) == "gold":
            gold.setdefault(input_key(row), row.id)
    findings = []
    for row in rows:
        if split.get(row.id) in ("train", "validation") and (leaked := gold.get(input_key(row))):
            why = f"asks what gold row {leaked} asks"
            findings.append(Finding(row_id=row.id, code=RejectCode.GOLD_OVERLAP, severity="reject", why=why, fix="leave it out of training", see=leaked))
    return findings
