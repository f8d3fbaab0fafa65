"""Rows that differ from an earlier one in a few words only; the first of each cluster stays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from planish.data.finding import CheckResult, Finding
from planish.data.minhash import Links, components, links
from planish.data.numbered import Numbered
from planish.data.parallel import uncollected
from planish.data.shingles import Shingles, units, words
from planish.data.similar import Pairs, jaccard
from planish.data.sketch import BANDS, PERMUTATIONS, ROWS
from planish.data.table import Table
from planish.data.texts import final_answer
from planish.data.traces import traces
from planish.errors import InputError, Problem
from planish.rows import NoteCode, RejectCode

_JUDGED = frozenset({"label", "unpaired", "steps"})
"""Shapes whose answer is a judgement: nearly the same is not the same."""


@uncollected()
def check(
    rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, threshold: float = 0.8, keep: Literal["first", "all"] = "first"
) -> CheckResult:
    """A finding per row that is near-identical to another of its cluster, with the cluster's first row in `see` (MISSION D6).

    Compared are prompt, documents and answer without system turns and tools: Jaccard of word 5-grams (character 5-grams below 20 words) of at least
    `threshold`. The answers alone must reach it too, and labels be equal: a question nearly repeated with another answer teaches something else, and so does
    one with other numbers, where these decide the answer.
    `keep: all` sets nothing aside; the clusters are then in `together`, so that no split separates them. Raises InputError on a threshold outside (0.5, 1].
    """
    if not 0.5 < threshold <= 1:
        why = f"{threshold:g}: below 0.5 MinHash would miss too many pairs, above 1 there are none"
        raise InputError(Problem("checks.near_duplicates.threshold", why, "0.8 is customary"))
    sketched = traces(rows).whole
    found = links(sketched, threshold, _SameAnswer(rows, threshold, split or {}))
    cluster = components(len(rows), [(found.left, found.right)])
    members: dict[int, list[int]] = defaultdict(list)
    for index in np.flatnonzero(np.bincount(cluster, minlength=len(rows))[cluster] > 1).tolist():
        members[int(cluster[index])].append(index)
    clusters = sorted(members.values())
    sizes = Counter(map(len, clusters))
    figures = {
        "threshold": threshold,
        "permutations": PERMUTATIONS,
        "bands": BANDS,
        "rows_per_band": ROWS,
        "clusters": len(clusters),
        "rows_in_clusters": sum(map(len, clusters)),
        "cluster_sizes": {str(size): sizes[size] for size in sorted(sizes)},
        "pairs_compared": found.compared,
        "pairs_left_out": found.left_out,
        "rows_without_shingles": int((sketched.sets.sizes == 0).sum()),
    }
    findings = _rejected(rows, clusters, found) if keep == "first" else []
    if found.left_out:
        why = f"so many rows are nearly alike that {found.left_out} of their pairs were not compared"
        findings.append(Finding(row_id=None, code=NoteCode.BOILERPLATE, severity="warn", why=why, fix="take the text that all rows share out of them"))
    together = tuple(tuple(rows.keys[index].id for index in group) for group in clusters) if keep == "all" else ()
    return CheckResult(findings=tuple(findings), figures=figures, together=together)


class _SameAnswer:
    """Whether the rows of a pair also answer nearly the same, and neither or both are gold: across that line likeness is a leak."""

    def __init__(self, rows: Table, threshold: float, split: Mapping[str, str]) -> None:
        self.rows, self.threshold = rows, threshold
        self._gold = [split.get(key.id) == "gold" for key in rows.keys]
        self._answer = cache(lambda index: final_answer(rows[index]))
        self._numbered = Numbered(rows)

    def __call__(self, pairs: Pairs) -> NDArray[np.bool_]:
        same = self._numbered.same(*pairs)
        same[same] = [self._same(left, right) for left, right in zip(pairs[0][same].tolist(), pairs[1][same].tolist(), strict=True)]
        return same

    def _same(self, left: int, right: int) -> bool:
        ours, theirs = self.rows.keys[left], self.rows.keys[right]
        if self._gold[left] != self._gold[right]:
            return False
        if ours.answer == theirs.answer:
            return True
        if {ours.shape, theirs.shape} & _JUDGED:
            return False
        first, second = self._answer(left), self._answer(right)
        if words(first) == words(second):
            return True
        sets = Shingles.of([units(first), units(second)])
        return bool(jaccard(sets, np.array([0]), np.array([1]))[0] >= self.threshold)


def _rejected(rows: Table, clusters: list[list[int]], found: Links) -> list[Finding]:
    """A finding for every row of a cluster but its first, in order. The reason names the row that it is most like."""
    nearest: dict[int, tuple[float, int]] = {}
    for left, right, exact in zip(found.left.tolist(), found.right.tolist(), found.jaccard.tolist(), strict=True):
        for row, other in ((left, right), (right, left)):
            nearest[row] = max(nearest.get(row, (0.0, other)), (exact, other))
    findings = {}
    for group in clusters:
        first = rows.keys[group[0]]
        for index in group[1:]:
            exact, other = nearest[index]
            like = rows.keys[other]
            why = f"is nearly row {like.id} (line {like.line}): {exact:.2f} of their 5-grams are the same"
            why += "" if other == group[0] else f"; both are in the cluster of row {first.id}"
            fix = "none needed: the first of the cluster is kept; keep: all keeps every one on one side of the split"
            code = RejectCode.NEAR_DUPLICATE
            findings[index] = Finding(row_id=rows.keys[index].id, code=code, severity="reject", why=why, fix=fix, see=first.id)
    return [findings[index] for index in sorted(findings)]
