"""Rows of different lengths, one after another in one flat array (_N rows, _V values of all rows together)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 512
"""Rows looked at in one go: their arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Ragged:
    """Row i has `values[starts[i]:starts[i + 1]]`. values: (_V,) uint32; starts: (_N + 1,) int64."""

    values: NDArray[np.uint32]
    starts: NDArray[np.int64]

    @classmethod
    def sized(cls, values: NDArray[np.uint32], sizes: NDArray[np.int64]) -> Self:
        """From the values of all rows and how many each has, (_N,)."""
        starts = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=starts[1:])
        return cls(values, starts)

    @staticmethod
    def packed(texts: Iterable[bytes]) -> Ragged:
        """From the values of each row as bytes."""
        held = list(texts)
        return Ragged.sized(np.frombuffer(b"".join(held), np.uint32), np.array([len(each) // 4 for each in held], np.int64))

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """The rows of several, one after another."""
        held = list(parts)
        values = np.concatenate([np.zeros(0, np.uint32), *(part.values for part in held)])
        return cls.sized(values, np.concatenate([np.zeros(0, np.int64), *(part.sizes for part in held)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Values of each row, (_N,)."""
        return np.diff(self.starts)

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The values of some rows one after another, and for each value its place in `rows`."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        begins = np.cumsum(lengths) - lengths
        at = np.repeat(self.starts[rows] - begins, lengths) + np.arange(lengths.sum())
        return self.values[at], np.repeat(np.arange(len(rows)), lengths)

    def only(self, rows: NDArray[np.int64]) -> Self:
        """Some rows, in the order they are named."""
        if len(rows) > len(self) / 8 and (rows[1:] > rows[:-1]).all():
            kept = np.zeros(len(self), np.bool_)  # marks cost an eighth of places
            kept[rows] = True
            return type(self).sized(self.values[np.repeat(kept, self.sizes)], self.sizes[rows])
        return type(self).sized(self.take(rows)[0], self.sizes[rows])

    def parts(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
        """The values (_V,) of some thousand rows at a time, and how many each of them has (_N,)."""
        for begin in range(0, len(self), AT_ONCE):
            edges = self.starts[begin : begin + AT_ONCE + 1]
            yield self.values[edges[0] : edges[-1]], np.diff(edges)
