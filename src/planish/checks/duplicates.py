"""Rows that teach the same thing again, after normalisation; the first one stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.rows import RejectCode


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, weight: Literal["none", "count"] = "none") -> CheckResult:
    """A finding per copy, with the kept row in `see` (MISSION D5). The same question with another answer is a conflict, not a copy.

    Where `split` says which rows are gold, gold is compared with gold only: what stands on both sides is a leak, and it is the other row that goes.
    `weight: count` adds the figure `weights`: kept row id -> how often it stood in the data, for rows with copies; as often it is trained on in an epoch.
    """
    kept: dict[tuple[bytes, bool], int] = {}
    copies: Counter[int] = Counter()
    findings = []
    for index, key in enumerate(rows.keys):
        first = kept.setdefault((key.duplicate, (split or {}).get(key.id) == "gold"), index)
        if first != index:
            copies[first] += 1
            see = rows.keys[first]
            why = f"repeats row {see.id} (line {see.line})"
            findings.append(Finding(row_id=key.id, code=RejectCode.DUPLICATE, severity="reject", why=why, fix="none needed: the first is kept", see=see.id))
    figures: dict[str, Any] = {"rows": len(rows), "distinct": len(kept), "copies": len(findings), "rows_with_copies": len(copies)}
    if weight == "count":
        figures["weights"] = {rows.keys[index].id: 1 + count for index, count in copies.items()}
    return CheckResult(findings=tuple(findings), figures=figures)
