"""Which rows mean the same: pairs of unit vectors whose cosine reaches a threshold, every row with every other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.similar import Pairs

MAX_PAIRS = 1_000_000
"""Pairs kept before the rest is left, and counted as left: so many rows that mean the same were written by a template."""

_AT_ONCE = 1024  # rows compared with all earlier ones in one go: 800 MB at 100,000 rows


class Alike(NamedTuple):
    """Pairs (_P,), left before right, with their cosines; `left_out` were not kept, because there were too many."""

    pairs: Pairs
    cosines: NDArray[np.float64]
    left_out: int


def alike(vectors: NDArray[np.float64], least: float, *, max_pairs: int = MAX_PAIRS) -> Alike:
    """Every pair of the unit vectors (_N, _H) with a cosine of at least `least`, by the later row and then the earlier."""
    left: list[NDArray[np.int64]] = []
    right: list[NDArray[np.int64]] = []
    cosines: list[NDArray[np.float64]] = []
    kept = left_out = 0
    for begin in range(0, len(vectors), _AT_ONCE):
        ours = vectors[begin : begin + _AT_ONCE]
        found = np.tril(ours @ vectors[: begin + len(ours)].T, begin - 1)
        later, earlier = np.nonzero(found >= least)
        room = max_pairs - kept
        left_out += max(len(later) - room, 0)
        later, earlier = later[:room], earlier[:room]
        left.append(earlier)
        right.append(later + begin)
        cosines.append(found[later, earlier])
        kept += len(later)
    joined = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in (left, right)]
    return Alike((joined[0], joined[1]), np.concatenate(cosines) if cosines else np.zeros(0), left_out)
