"""Bins under a budget of tokens: best-fit decreasing, and how full bins or padded batches are (MISSION K5, K6)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence as Seq
from dataclasses import dataclass


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

    O(n log n) but for moving list entries. Ties go to the item that came first, so the result depends on nothing else.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free cells, bin), ascending
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        at = bisect_left(room, (sizes[index], -1))
        if at < len(room):
            free, chosen = room.pop(at)
        else:
            free, chosen = max(capacity, sizes[index]), len(bins)
            bins.append([])
        bins[chosen].append(index)
        insort(room, (free - sizes[index], chosen))
    return bins


def packed(sizes: Seq[int], capacity: int) -> Filling:
    """How full the bins of `best_fit_decreasing` are."""
    return Filling(sum(sizes), sum(max(capacity, *(sizes[index] for index in members)) for members in best_fit_decreasing(sizes, capacity)))


def padded(sizes: Seq[int]) -> Filling:
    """How full one batch is whose rows are padded to the longest."""
    return Filling(sum(sizes), len(sizes) * max(sizes))
