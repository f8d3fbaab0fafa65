"""Bins under a budget of tokens: best-fit decreasing, and how full bins or padded batches are (MISSION K5, K6)."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np


@dataclass(frozen=True)
class Filling:
    """`used` of `cells` cells hold a token; the rest is padding."""

    used: int
    cells: int

    @property
    def share(self) -> float:
        """Used cells over all cells."""
        return self.used / self.cells

    @property
    def padding(self) -> float:
        """Padding over all cells."""
        return 1 - self.share


def best_fit_decreasing(sizes: Seq[int], capacity: int) -> list[list[int]]:
    """Indices of the items in each bin. The longest item first, each into the fullest bin that still has room; an item above the capacity has a bin of its own.

    Ties go to the item, and to the bin, that came first, so the result depends on nothing else. Bins are held by their free cells, and a bit of `some` says for each
    number of free cells whether a bin has it: the fullest bin with room is the lowest bit from the size on.
    """
    given = np.array(sizes, np.int64)
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # free cells -> a heap of the bins that have them
    some = 0
    ordered = np.argsort(-given, kind="stable")
    for index, size in zip(ordered.tolist(), given[ordered].tolist(), strict=True):
        fitting = some >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            held = by_room[free]
            chosen = heappop(held)
            if not held:
                some ^= 1 << free
        else:
            free, chosen = max(capacity, size), len(bins)
            bins.append([])
        bins[chosen].append(index)
        left = free - size
        heappush(by_room.setdefault(left, []), chosen)
        some |= 1 << left
    return bins


def packed(sizes: Seq[int], capacity: int) -> Filling:
    """How full the bins of `best_fit_decreasing` are."""
    return Filling(sum(sizes), sum(max(capacity, sizes[members[0]]) for members in best_fit_decreasing(sizes, capacity)))


def padded(sizes: Seq[int]) -> Filling:
    """How full one batch is whose rows are padded to the longest."""
    return Filling(sum(sizes), len(sizes) * max(sizes))
