"""Rows that differ from an earlier one in a few words only, or (if asked) say the same in others; the first of each cluster stays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.finding import CheckResult, Finding
from planish.data.meaning import alike
from planish.data.minhash import Links, components, links
from planish.data.numbered import Numbered
from planish.data.parallel import uncollected
from planish.data.shingles import Shingles, units, words
from planish.data.similar import Pairs, jaccard
from planish.data.sketch import BANDS, PERMUTATIONS, ROWS
from planish.data.table import Table
from planish.data.texts import body_text, final_answer
from planish.data.traces import traces
from planish.errors import InputError, Problem
from planish.rows import NoteCode, RejectCode

_JUDGED = frozenset({"label", "unpaired", "steps"})
"""Shapes whose answer is a judgement: nearly the same is not the same."""


@uncollected()
def check(
    rows: Table,
    split: Mapping[str, str] | None = None,
    chat: Any = None,
    *,
    threshold: float = 0.8,
    embedding: float | None = None,
    encoder: str = "minilm",
    keep: Literal["first", "all"] = "first",
) -> CheckResult:
    """A finding per row that is near-identical to another of its cluster, with the cluster's first row in `see` (MISSION D6).

    Compared are prompt, documents and answer without system turns and tools: Jaccard of word 5-grams (character 5-grams below 20 words) of at least
    `threshold`. The answers alone must reach it too, and labels be equal: a question nearly repeated with another answer teaches something else, and so does
    one with other numbers, where these decide the answer. With `embedding` (0.95 is customary) rows and their answers may also have a cosine of at least that,
    by the sentence encoder `encoder`; rows that it would cut are compared by their words alone.
    `keep: all` sets nothing aside; the clusters are then in `together`, so that no split separates them. Raises InputError on a threshold outside (0.5, 1].
    """
    if not 0.5 < threshold <= 1:
        why = f"{threshold:g}: below 0.5 MinHash would miss too many pairs, above 1 there are none"
        raise InputError(Problem("checks.near_duplicates.threshold", why, "0.8 is customary"))
    if embedding is not None and not 0.5 < embedding <= 1:
        raise InputError(
            Problem("checks.near_duplicates.embedding", f"{embedding:g}: below 0.5 unlike texts are pairs too, above 1 there are none", "0.95 is customary")
        )
    sketched = traces(rows).whole
    same = _SameAnswer(rows, threshold, split or {})
    found = links(sketched, threshold, same)
    meant = _NOT_ASKED if embedding is None else _by_meaning(rows, same, embedding, encoder)
    cluster = components(len(rows), [(found.left, found.right), meant.pairs])
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
        "pairs_left_out": found.left_out + meant.left_out,
        "rows_without_shingles": int((sketched.sets.sizes == 0).sum()),
    }
    if embedding is not None:
        figures |= {"embedding": embedding, "pairs_by_meaning": len(meant.cosines), "rows_too_long_for_meaning": meant.too_long}
    findings = _rejected(rows, clusters, found, meant) if keep == "first" else []
    if left_out := figures["pairs_left_out"]:
        why = f"so many rows are nearly alike that {left_out} of their pairs were not compared"
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

    def __call__(self, pairs: Pairs, says_the_same: Callable[[int, int], bool] | None = None) -> NDArray[np.bool_]:
        same = self._numbered.same(*pairs)
        alike_by = says_the_same or self._in_the_same_words
        same[same] = [self._same(left, right, alike_by) for left, right in zip(pairs[0][same].tolist(), pairs[1][same].tolist(), strict=True)]
        return same

    def answer(self, row: int) -> str:
        """What a row's last question is answered with."""
        return str(self._answer(row))

    def _same(self, left: int, right: int, says_the_same: Callable[[int, int], bool]) -> bool:
        ours, theirs = self.rows.keys[left], self.rows.keys[right]
        if self._gold[left] != self._gold[right]:
            return False
        if ours.answer == theirs.answer:
            return True
        return not {ours.shape, theirs.shape} & _JUDGED and says_the_same(left, right)

    def _in_the_same_words(self, left: int, right: int) -> bool:
        first, second = self._answer(left), self._answer(right)
        if words(first) == words(second):
            return True
        sets = Shingles.of([units(first), units(second)])
        return bool(jaccard(sets, np.array([0]), np.array([1]))[0] >= self.threshold)


class _Meant(NamedTuple):
    """Pairs of rows (_P,) that say the same in other words, left before right, with their cosines; rows too long for the encoder; pairs that were not looked at."""

    pairs: Pairs
    cosines: NDArray[np.float64]
    too_long: int = 0
    left_out: int = 0


_NOT_ASKED = _Meant((np.zeros(0, np.int64), np.zeros(0, np.int64)), np.zeros(0))


def _by_meaning(rows: Table, same: _SameAnswer, least: float, encoder: str) -> _Meant:
    """The pairs whose texts have a cosine of `least` and whose answers are the same, or have it too. Rows without a word mean nothing, and of one that the
    encoder would cut the end is not known: neither has a pair."""
    from planish.model.encoder import embed

    texts = list(rows.map(body_text))
    vectors, cut = embed(texts, encoder=encoder)
    whole = np.flatnonzero(~cut & np.array([bool(words(text)) for text in texts], bool))
    found = alike(vectors[whole], least)
    left, right = whole[found.pairs[0]], whole[found.pairs[1]]
    named = np.unique(np.concatenate([left, right]))
    said = embed([same.answer(row) for row in named.tolist()], encoder=encoder)[0]
    place = {row: index for index, row in enumerate(named.tolist())}
    kept = same((left, right), lambda one, other: float(said[place[one]] @ said[place[other]]) >= least)
    return _Meant((left[kept], right[kept]), found.cosines[kept], int(cut.sum()), found.left_out)


def _rejected(rows: Table, clusters: list[list[int]], found: Links, meant: _Meant) -> list[Finding]:
    """A finding for every row of a cluster but its first, in order. The reason names the row that it is most like, by its words where these tell."""
    by_words = _nearest((found.left, found.right), found.jaccard)
    nearest = {row: (other, f"{exact:.2f} of their 5-grams are the same") for row, (exact, other) in by_words.items()}
    for row, (cosine, other) in _nearest(meant.pairs, meant.cosines).items():
        nearest.setdefault(row, (other, f"both say the same in other words (cosine {cosine:.2f})"))
    findings = {}
    for group in clusters:
        first = rows.keys[group[0]]
        for index in group[1:]:
            other, how = nearest[index]
            like = rows.keys[other]
            why = f"is nearly row {like.id} (line {like.line}): {how}"
            why += "" if other == group[0] else f"; both are in the cluster of row {first.id}"
            fix = "none needed: the first of the cluster is kept; keep: all keeps every one on one side of the split"
            code = RejectCode.NEAR_DUPLICATE
            findings[index] = Finding(row_id=rows.keys[index].id, code=code, severity="reject", why=why, fix=fix, see=first.id)
    return [findings[index] for index in sorted(findings)]


def _nearest(pairs: Pairs, likeness: NDArray[np.float64]) -> dict[int, tuple[float, int]]:
    """For each row of a pair the likeness of the one most like it, and that one."""
    nearest: dict[int, tuple[float, int]] = {}
    for left, right, alike_by in zip(pairs[0].tolist(), pairs[1].tolist(), likeness.tolist(), strict=True):
        for row, other in ((left, right), (right, left)):
            nearest[row] = max(nearest.get(row, (0.0, other)), (alike_by, other))
    return nearest
