"""Whether a reward may be used: how often it puts the better answer first, in which slices, whether its probabilities hold, and whether it only counts words (MISSION P4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.evidence.intervals import Interval, wilson

BINS = 10
"""Of equal width over probabilities from 0 to 1, as is usual for expected calibration error (Guo et al. 2017, arXiv 1706.04599)."""


class Share(NamedTuple):
    """Pairs in the right order among `n`; a tie counts as half."""

    value: float
    n: int
    interval: Interval


class PairAccuracy(NamedTuple):
    """`usable` where the accuracy's interval lies above .5. `calibration`: mean distance of said probability and share that came true, weighted by pairs.

    `length_correlation`: Pearson's r of difference in reward and difference in length; None where either never changes.
    """

    all: Share
    slices: dict[str, Share]
    usable: bool
    calibration: float
    length_correlation: float | None


def pair_accuracy(differences: Sequence[float], lengths: Sequence[float], slices: Sequence[str] | None = None, *, confidence: float = 0.95) -> PairAccuracy:
    """Judge held-out pairs. differences: reward of the better answer less that of the worse; lengths: the same of their lengths. Raises InputError without a pair."""
    if not differences or len(differences) != len(lengths) or (slices is not None and len(slices) != len(differences)):
        why = f"{len(differences)} differences, {len(lengths)} lengths and {len(differences) if slices is None else len(slices)} slices"
        raise InputError(Problem("pair_accuracy", why, "give one of each for every held-out pair, and at least one pair"))
    margin, longer = np.array(differences, np.float64), np.array(lengths, np.float64)
    right = (np.sign(margin) + 1) / 2
    overall = _share(right, confidence)
    names = np.array(slices if slices is not None else [], dtype=str)
    by_slice = {str(name): _share(right[names == name], confidence) for name in np.unique(names)}
    varied = margin.std() > 0 and longer.std() > 0
    correlation = float(np.corrcoef(margin, longer)[0, 1]) if varied else None
    return PairAccuracy(overall, by_slice, overall.interval.low > 0.5, _calibration(margin, right), correlation)


def _share(right: NDArray[np.float64], confidence: float) -> Share:
    return Share(float(right.mean()), len(right), wilson(float(right.sum()), len(right), confidence=confidence))


def _calibration(margin: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Expected calibration error of the answer that the reward prefers: its probability is never below .5, so that which answer is called the better does not matter."""
    said = 1 / (1 + np.exp(-np.abs(margin)))
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    gaps = np.abs(np.bincount(bins, weights=said, minlength=BINS) - np.bincount(bins, weights=right, minlength=BINS))
    return float(gaps.sum() / counts.sum())
