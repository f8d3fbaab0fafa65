"""Rows that teach the same thing again, after normalisation; the first one stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planish.data.finding import Finding
from planish.data.normalise import duplicate_key
from planish.rows import RejectCode, Row


def check(rows: Sequence[Row], split: Mapping[str, str] | None = None) -> list[Finding]:
    """A finding per copy, with the kept row in `see` (MISSION D5). The same question with another answer is a conflict, not a copy."""
    kept: dict[str, Row] = {}
    findings = []
    for row in rows:
        first = kept.setdefault(duplicate_key(row), row)
        if first is not row:
            why = f"repeats row {first.id} ({first.origin.file}:{first.origin.line})"
            findings.append(Finding(row_id=row.id, code=RejectCode.DUPLICATE, severity="reject", why=why, fix="none needed: the first is kept", see=first.id))
    return findings
