"""How far a figure on a sample may be from the truth: Wilson's interval of a share and the (cluster) bootstrap of any metric (MISSION E4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem

Floats = NDArray[np.floating[Any]]
Statistic = Callable[[NDArray[np.float32]], Floats]
"""A metric as a function of row weights: (_R, n) counts, how often each resample drew each row, to (_R,) or (_R, k) values."""

RESAMPLES = 10_000
CELLS_AT_ONCE = 4_000_000  # 16 MB of float32 weights: the peak stays flat whatever the number of rows


class Interval(NamedTuple):
    """Lower and upper end, in the metric's unit."""

    low: float
    high: float


def wilson(successes: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Two-sided Wilson score interval of a share `successes / n`. A one-sided bound at 95 % is an end of the interval at `confidence` 0.90.

    Raises InputError where n < 1 or successes lie outside 0..n. Source: Wilson 1927, JASA 22:209."""
    if n < 1 or not 0 <= successes <= n:
        raise InputError(Problem("wilson", f"{successes} successes of {n} rows is not a share", "0 <= successes <= n with n >= 1"))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half) if successes > 0 else 0.0, min(1.0, centre + half) if successes < n else 1.0)


def stratified_wilson(strata: Sequence[tuple[float, int, int]], *, confidence: float = 0.95) -> Interval:
    """Interval of a weighted sum of independent shares, of (weight, successes, n) each: Wilson's of every share, put together by the method of variance estimates recovery.

    Raises InputError as `wilson`. Source: Zou & Donner 2008, Statist. Med. 27:1693."""
    value, below, above = 0.0, 0.0, 0.0
    for weight, successes, n in strata:
        low, high = wilson(successes, n, confidence=confidence)
        share = successes / n
        value, below, above = value + weight * share, below + (weight * (share - low)) ** 2, above + (weight * (high - share)) ** 2
    return Interval(value - math.sqrt(below), value + math.sqrt(above))


def bootstrap(
    statistic: Statistic, n: int, *, groups: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Two-sided percentile bootstrap interval of a statistic with one value per resample; whole groups are drawn when `groups` is given.

    Source: Efron 1979; Cameron, Gelbach & Miller 2008 for the clustered form."""
    return percentile(resampled(statistic, n, groups=groups, resamples=resamples, seed=seed), confidence=confidence)


def percentile(draws: Floats, *, confidence: float = 0.95) -> Interval:
    """The central `confidence` share of bootstrap draws (_R,)."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def resampled(statistic: Statistic, n: int, *, groups: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """The statistic on every bootstrap resample: (resamples,) or (resamples, k). Same seed, same draws, whatever the statistic:
    two metrics of one set of rows are therefore resampled together.

    Raises InputError where n < 1 or `groups` has not one entry per row."""
    if n < 1:
        raise InputError(Problem("bootstrap", "there are no rows to resample", "score at least one row"))
    if groups is not None and len(groups) != n:
        raise InputError(Problem("bootstrap", f"{len(groups)} groups for {n} rows", "give one group per row"))
    return np.concatenate([statistic(weights) for weights in row_weights(n, groups, resamples, seed)])


def row_weights(n: int, groups: Sequence[str] | None, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Blocks (_R, n) of counts. Float32 holds every count and sum below 2^24 exactly, so the products that follow are exact."""
    rng = np.random.default_rng(seed)
    membership = np.arange(n) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    units = int(membership.max()) + 1
    block = max(1, CELLS_AT_ONCE // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, units, (size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float32)
        yield counts if groups is None else counts[:, membership]
