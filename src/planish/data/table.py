"""The accepted rows of a data set: themselves on disk, and in memory only the keys by which they are compared, so that a million rows fit in little."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from planish.data.normalise import digest, fields
from planish.data.parallel import map_chunks
from planish.data.spool import Spool
from planish.rows import LabelRow, Row

R = TypeVar("R")
ROW: TypeAdapter[Row] = TypeAdapter(Row)


class Keys(NamedTuple):
    """By what a row is known and compared. The digests are those of `normalise.digest`."""

    id: str
    shape: str
    group: str | None
    label: str | None
    line: int
    duplicate: bytes
    question: bytes
    answer: bytes


def keys_of(row: Row) -> Keys:
    """The keys of a row; its label if it is a classification."""
    question, answer = fields(row)
    label = row.label if isinstance(row, LabelRow) else None
    asked, said = digest(row.shape, question), digest(row.shape, answer)
    return Keys(row.id, row.shape, row.group, label, row.origin.line, asked + said, asked, said)


@dataclass(frozen=True)
class Table:
    """N rows. `at` (N,) int64 is where each begins in `spool`, one JSON row a line; `keys` are theirs in the same order."""

    spool: Spool
    at: NDArray[np.int64]
    keys: tuple[Keys, ...]

    @staticmethod
    def of(rows: Iterable[Row]) -> Table:
        """A table in memory."""
        spool, at, keys = Spool(in_memory=True), list[int](), list[Keys]()
        for row in rows:
            at.append(spool.append(line_of(row)))
            keys.append(keys_of(row))
        return Table(spool, np.array(at, np.int64), tuple(keys))

    @cached_property
    def ids(self) -> list[str]:
        """The row ids, in order."""
        return [key.id for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Row:
        return ROW.validate_json(self.spool.line(int(self.at[index])))

    def __iter__(self) -> Iterator[Row]:
        return map(ROW.validate_json, self.lines())

    def lines(self) -> Iterator[bytes]:
        """Each row as its line of JSON, read one by one."""
        return self.spool.lines(self.at.tolist())

    def map(self, function: Callable[[Row], R]) -> Iterator[R]:
        """`function` of every row, in order, on every core where there are many. What it gives must be picklable."""
        for part in map_chunks(partial(_apply, self.spool, function), self.at.tolist()):
            yield from part

    def without(self, ids: Collection[str]) -> Table:
        """The table without these rows."""
        if not ids:
            return self
        return self.where([key.id not in ids for key in self.keys])

    def where(self, kept: Iterable[bool]) -> Table:
        """The rows for which `kept` says so."""
        chosen = np.fromiter(kept, bool, len(self.keys))
        return Table(self.spool, self.at[chosen], tuple(compress(self.keys, chosen.tolist())))


def line_of(row: Row) -> bytes:
    """A row as one line of JSON; the same row gives the same bytes."""
    return row.__pydantic_serializer__.to_json(row) + b"\n"  # its own serialiser: that of `ROW` would try every shape's


def _apply(spool: Spool, function: Callable[[Row], R], places: list[int]) -> list[R]:
    return [function(ROW.validate_json(line)) for line in spool.lines(places)]
