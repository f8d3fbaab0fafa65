"""Rows far longer or shorter than the others: pasted logs, answers that never end, answers that were lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.data.traces import traces
from planish.rows import NoteCode

FEWEST = 20
"""Rows below which nothing can be called usual."""

_LEAST_SPREAD = 0.75  # of log2: where all rows are equally long, one twice as long is still no outlier


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, z: float = 5.0) -> CheckResult:
    """A warning per row whose prompt or answer has a robust z-score beyond `z` (MISSION D4); the row stays.

    The score is (log2 n - median) / (1.4826 * MAD) over n, the characters of prompt or answer, with the spread taken as at least 0.75, so that an outlier of
    z 5 is at least 13 times longer or shorter than the median. Figures: quantiles of both, in characters.
    """
    sizes = traces(rows).sizes
    findings: list[tuple[int, Finding]] = []
    figures: dict[str, Any] = {"rows": len(rows), "z": z}
    counts: Counter[str] = Counter()
    for column, name in enumerate(("prompt", "answer")):
        present = sizes[:, column] > 0
        if not present.any():
            continue
        values = np.log2(sizes[present, column])
        middle = float(np.median(values))
        spread = max(1.4826 * float(np.median(np.abs(values - middle))), _LEAST_SPREAD)
        at = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        figures[name] = {key: float(value) for key, value in zip(at, np.quantile(sizes[present, column], list(at.values())), strict=True)}
        figures[name]["n"] = int(present.sum())
        if present.sum() < FEWEST:
            continue
        scores = (values - middle) / spread
        for place in np.flatnonzero(np.abs(scores) > z):
            index, score = int(np.flatnonzero(present)[place]), float(scores[place])
            counts[f"{name}_{'long' if score > 0 else 'short'}"] += 1
            why = f"the {name} has {sizes[index, column]} characters, the median is {2**middle:.0f} (robust z {score:+.1f})"
            fix = "read it: cut what was pasted by accident, or leave the row out; rare but right rows should stay"
            findings.append((index, Finding(row_id=rows.keys[index].id, code=NoteCode.LENGTH_OUTLIER, severity="warn", why=why, fix=fix)))
    figures["outliers"] = dict(sorted(counts.items()))
    return CheckResult(findings=tuple(finding for _, finding in sorted(findings, key=lambda each: each[0])), figures=figures)
