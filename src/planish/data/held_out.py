"""Rows that are held out of training, and what of other rows repeats them: the methods of MISSION D9."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from planish.data.minhash import crossing
from planish.data.overlap import HELD, NGrams
from planish.data.shingles import Shingles
from planish.data.table import Keys
from planish.data.traces import Trace


class Leak(NamedTuple):
    """Row `row` of those searched repeats held-out row `held`."""

    row: int
    held: int
    method: str
    score: float


class HeldOut:
    """Held-out rows: how each is named, what kind it is (gold, validation, benchmark), and its trace. Add all rows, then search."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.kinds: list[str] = []
        self._exact: dict[bytes, int] = {}
        self._shingles: list[bytes] = []
        self._asked: list[bytes] = []

    def add(self, kind: str, rows: Iterable[tuple[str, Keys, Trace]]) -> None:
        """Take rows with their names; the first of several equal ones stands for them."""
        for name, keys, traced in rows:
            for digest in {keys.question, traced.prompt} - {b""}:
                self._exact.setdefault(digest, len(self.names))
            self.names.append(name)
            self.kinds.append(kind)
            self._shingles.append(traced.shingles)
            self._asked.append(traced.asked)

    @cached_property
    def ngrams(self) -> tuple[NGrams, NGrams]:
        """13-grams of the long questions, 5-grams of the short ones."""
        return NGrams.long_and_short(self._asked)

    def copied(self, keys: Sequence[Keys], traces: Sequence[Trace]) -> Iterator[Leak]:
        """Exact repeats (score 1) and shared n-grams (score: the share of the held-out question's n-grams)."""
        for row, (key, traced) in enumerate(zip(keys, traces, strict=True)):
            held = self._exact.get(key.question, self._exact.get(traced.prompt))
            if held is not None:
                yield Leak(row, held, "exact", 1.0)
        for grams, least in zip(self.ngrams, (0.0, HELD), strict=True):
            for match in grams.matches((traced.body for traced in traces), least):
                yield Leak(match.row, match.held, f"{match.n}-gram", match.score)

    def nearly(self, prompts: Shingles, threshold: float) -> tuple[list[Leak], int]:
        """For each row whose prompt reaches a Jaccard of `threshold` with a held-out one, the nearest; and how many pairs were not compared."""
        own = Shingles.of(self._shingles)
        sets = Shingles.joined([own, prompts])
        found = crossing(sets, np.flatnonzero(own.sizes), len(own) + np.flatnonzero(prompts.sizes), threshold)
        nearest: dict[int, Leak] = {}
        for index, row, score in zip(found.left.tolist(), (found.right - len(own)).tolist(), found.jaccard.tolist(), strict=True):
            if row not in nearest or score > nearest[row].score:
                nearest[row] = Leak(row, index, "near", score)
        return [nearest[row] for row in sorted(nearest)], found.left_out
