"""Screening a system on as few gold rows as it takes: would it reach the bar on all of them? (MISSION E5)

Rows are asked in a shuffled order, chunk by chunk, and the gate looks after every row; it may, because its error holds at any stopping time. The answer is
about this gold set: "fail" says that the full score would stay below the bar, "pass" that it would reach it. It saves calls, and is no verdict: that
scores the full gold. For a bar that an interval must clear, screen at `share_to_clear`: the score on all rows from which the interval does."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Literal

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.intervals import wilson
from planish.evidence.sequential import SequentialGate
from planish.rows import Noun, content_hash

CHUNK = 16
"""Rows asked at a time: an engine answers a few together faster than one by one."""


class Screened(Noun):
    """What a screening found. `rows_used` rows decided; `asked` are the places of all rows that were answered, the rest of the last chunk included."""

    decision: Literal["pass", "fail"]
    rows_used: int
    total: int
    bar: float
    alpha: float
    mean: float  # of the rows that decided; where it stopped early it is no estimate of the whole
    e_value: float | None  # evidence for the decision, at least 1/alpha; None where the rows seen settle it whatever the others are
    order: str  # the shuffled order, by hash
    asked: tuple[int, ...]

    def __str__(self) -> str:
        how = "no other row could change it" if self.e_value is None else f"evidence {self.e_value:.3g}, {1 / self.alpha:g} suffices"
        side = "reaches" if self.decision == "pass" else "stays below"
        return f"{side} {self.bar:.3g} on the whole gold set, known after {self.rows_used} of {self.total} rows ({how})"


def screen(
    answer_rows: Callable[[Sequence[int]], Sequence[float]],
    total: int,
    bar: float,
    alpha: float = 0.05,
    seed: int = 0,
    *,
    chunk: int = CHUNK,
    peeked: Container[str] = (),
) -> Screened:
    """Ask rows until it is clear whether the mean score of all `total` reaches `bar`; wrong with probability at most `alpha` either way.

    `answer_rows` takes places (0..total-1) and returns their scores in [0, 1], in that order. It is never asked for a row twice. `peeked` holds the orders
    that this system was already looked at in: once it was changed for what they showed, they are no longer random to it.

    Raises InputError on a peeked order, on as many scores as were not asked for, and as `SequentialGate`."""
    places = shuffled(total, seed)
    name = content_hash(places)
    if name in peeked:
        raise InputError(Problem("seed", f"the order of seed {seed} was looked at before: what it showed may have shaped this system", "give another seed"))
    if chunk < 1:
        raise InputError(Problem("chunk", f"{chunk} rows at a time", "at least 1"))
    gate = SequentialGate(total, bar, alpha=alpha)
    asked = 0
    while gate.decision == "continue":
        part = places[asked : asked + chunk]
        scores = answer_rows(part)
        if len(scores) != len(part):
            raise InputError(Problem("screen", f"{len(scores)} scores for {len(part)} rows", "give one score per row asked; a failed answer scores 0"))
        asked += len(part)
        for score in scores:
            if gate.update(score) != "continue":
                break
    side = gate.above if gate.decision == "pass" else gate.below
    certain = gate.above.certain if gate.decision == "pass" else gate.below.certain
    return Screened(
        decision=gate.decision,
        rows_used=gate.rows,
        total=total,
        bar=bar,
        alpha=alpha,
        mean=gate.above.sum / gate.rows,
        e_value=None if certain else side.e_value,
        order=name,
        asked=tuple(places[:asked]),
    )


def shuffled(total: int, seed: int) -> list[int]:
    """The order in which a seed asks the rows of a set: places 0..total-1."""
    return [int(place) for place in np.random.default_rng(seed).permutation(max(0, total))]


def share_to_clear(bar: float, total: int) -> float | None:
    """The smallest share of `total` right/wrong rows whose one-sided 95 % lower bound (Wilson) is at least `bar`; None where not even all rows right would do.

    Below it the gate's `metric >= bar` cannot pass, so this is the bar to screen at: .85 on 400 rows asks for .88."""
    low, high = 0, total
    if total < 1 or wilson(total, total, confidence=0.90).low < bar:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wilson(middle, total, confidence=0.90).low >= bar else (middle + 1, high)
    return low / total
