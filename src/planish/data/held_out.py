"""Rows that are held out of training, and what of other rows repeats them: the methods of MISSION D9."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.minhash import crossing
from planish.data.overlap import HELD, NGrams, Same, matches
from planish.data.ragged import Ragged
from planish.data.sketch import Sketched
from planish.data.table import Keys
from planish.data.template import Templates
from planish.data.traces import Traces

_MARKED = 20  # bits of a digest in a table that fits the processor's cache


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
        self._traces: list[Traces] = []

    def add(self, kind: str, names: Sequence[str], keys: Sequence[Keys], traced: Traces) -> None:
        """Take rows with their names; the first of several equal ones stands for them."""
        prompts = _digests(traced)
        for number, (key, prompt) in enumerate(zip(keys, prompts, strict=True), start=len(self.names)):
            self._exact.setdefault(key.question, number)
            if prompt:
                self._exact.setdefault(prompt, number)
        self.names += names
        self.kinds += [kind] * len(names)
        self._traces.append(traced)

    @cached_property
    def ngrams(self) -> tuple[NGrams, NGrams]:
        """13-grams of the long questions, 5-grams of the short ones."""
        return NGrams.long_and_short(Ragged.joined([traced.asked for traced in self._traces]))

    @cached_property
    def near(self) -> Sketched:
        """The questions as sets."""
        return Sketched.joined([traced.near for traced in self._traces])

    @cached_property
    def _marked(self) -> NDArray[np.bool_]:
        """Which lowest bits some digest has."""
        marked = np.zeros(1 << _MARKED, bool)
        marked[_low(b"".join(self._exact))] = True
        return marked

    def repeated(self, keys: Sequence[Keys], traced: Traces) -> Iterator[Leak]:
        """Exact repeats (score 1)."""
        questions = _low(b"".join([key.question for key in keys]))
        maybe = np.flatnonzero(self._marked[questions] | self._marked[_low(traced.prompt.tobytes())])  # nearly all rows end here
        prompts = traced.prompt[maybe]
        for row, prompt in zip(maybe.tolist(), prompts, strict=True):
            held = self._exact.get(keys[row].question, self._exact.get(prompt.tobytes()))
            if held is not None:
                yield Leak(row, held, "exact", 1.0)

    def nearly(self, traced: Traces, threshold: float, same: Same | None = None) -> tuple[list[Leak], int]:
        """For each row whose prompt reaches a Jaccard of `threshold` with a held-out one, the nearest; and how many pairs were not compared.

        Where both share a template of many rows, what stands in it must reach the threshold too. `same` may say that a pair asks two things.
        """
        found = crossing(self.near, traced.near, threshold)
        held, row, score = found.left, found.right, found.jaccard
        if len(held) and same is not None:
            alike = same(held, row)
            held, row, score = held[alike], row[alike], score[alike]
        if len(held):
            alike = Templates(Ragged.joined([each.asked for each in self._traces]), traced.asked).alike(held, row, threshold)
            held, row, score = held[alike], row[alike], score[alike]
        order = np.lexsort((held, -score, row))
        nearest = order[np.concatenate(([True], np.diff(row[order]) != 0))] if len(order) else order
        return [Leak(int(row[at]), int(held[at]), "near", float(score[at])) for at in nearest], found.left_out


def copied(helds: Sequence[HeldOut], keys: Sequence[Keys], traced: Traces, same: Sequence[Same | None] | None = None) -> Iterator[tuple[HeldOut, Leak]]:
    """What rows copy of held-out ones: exact repeats, then shared n-grams (score: the share of the held-out question's n-grams); for each of `helds`, in one pass.

    `same` may say, for each of `helds`, that a row which holds the words of a short question asks something else.
    """
    for held in helds:
        yield from ((held, leak) for leak in held.repeated(keys, traced))
    for grams, least in zip(zip(*(held.ngrams for held in helds), strict=True), (0.0, HELD), strict=True):
        for which, match in matches(grams, traced.body, least, same):
            yield helds[which], Leak(match.row, match.held, f"{match.n}-gram", match.score)


def _digests(traced: Traces) -> list[bytes]:
    """The prompts' digests one by one; empty where there is none."""
    return [digest if any(digest) else b"" for digest in map(bytes, traced.prompt)]


def _low(digests: bytes) -> NDArray[np.uint64]:
    """The lowest bits of each of some digests."""
    return np.frombuffer(digests, "<u8")[::2] & np.uint64((1 << _MARKED) - 1)
