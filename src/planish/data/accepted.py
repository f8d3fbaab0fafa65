"""Accepted rows on their way to disk, and the raw text of each beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.clean import Change
from planish.data.normalise import SIZE
from planish.data.spool import Spool
from planish.data.table import ROW, Keys, Table, line_of
from planish.data.trace import Texts
from planish.data.trace_columns import Columns, columns_of
from planish.data.traces import Kept
from planish.rows import RejectedRow


@dataclass(frozen=True)
class RawText:
    """The raw text of every accepted row by id, on disk: a row that is set aside later keeps it. Row k's stands from `edges[k]` to `edges[k + 1]`."""

    spool: Spool
    places: Mapping[str, int]
    edges: NDArray[np.int64]

    def of(self, row_id: str) -> str:
        """The text as it stood in the file."""
        place = self.places[row_id]
        return self.spool.part(int(self.edges[place]), int(self.edges[place + 1])).decode()


class Taken(NamedTuple):
    """A row on its way to disk: its keys, its line as it is stored, the raw text it was read from, and what of it is compared, where it will be."""

    keys: Keys
    line: bytes
    raw: bytes
    texts: Texts | None


class Part(NamedTuple):
    """A run of rows on its way to disk, in few values that cost little to hand from process to process. `ids`, `shapes` and so on are columns of the rows' keys,
    digests 16 bytes a row; `lines` and `raws` all their texts, with the size of each."""

    ids: list[str]
    shapes: list[str]
    groups: list[str | None]
    labels: list[str | None]
    numbers: list[int]
    questions: bytes
    answers: bytes
    lines: bytes
    sizes: NDArray[np.int64]
    raws: bytes
    raw_sizes: NDArray[np.int64]
    traces: list[Columns]
    changes: list[tuple[int, Change]]  # the place of the row in this run, and what was tidied
    rejected: list[RejectedRow]

    @staticmethod
    def of(rows: Sequence[Taken], changes: list[tuple[int, Change]], rejected: list[RejectedRow]) -> Part:
        """A run of rows, and the records among them that were refused."""
        keys = [row.keys for row in rows]
        return Part(
            [key.id for key in keys],
            [key.shape for key in keys],
            [key.group for key in keys],
            [key.label for key in keys],
            [key.line for key in keys],
            b"".join([key.question for key in keys]),
            b"".join([key.answer for key in keys]),
            *_joined([row.line for row in rows]),
            *_joined([row.raw for row in rows]),
            columns_of([row.texts for row in rows if row.texts is not None]),
            changes,
            rejected,
        )

    @property
    def keys(self) -> list[Keys]:
        """The keys of the rows."""
        asked, said = _cut(self.questions), _cut(self.answers)
        both = map(add, asked, said)
        return list(map(Keys, self.ids, self.shapes, self.groups, self.labels, self.numbers, both, asked, said))


def _joined(texts: Sequence[bytes]) -> tuple[bytes, NDArray[np.int64]]:
    return b"".join(texts), np.array(list(map(len, texts)), np.int64)


def _cut(digests: bytes) -> list[bytes]:
    return [digests[at : at + SIZE] for at in range(0, len(digests), SIZE)]


class Accepted:
    """The accepted rows on their way to disk."""

    def __init__(self) -> None:
        self.rows, self.raws = Spool(), Spool()
        self.keys: list[Keys] = []
        self.changes: list[tuple[str, Change]] = []
        self._sizes, self._raw_sizes = ([np.zeros(1, np.int64)] for _ in range(2))
        self._places: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._traces = Kept()

    def add(self, part: Part) -> None:
        """More rows; an id that another row has already becomes `…-2`, then `…-3`."""
        keys, lines, sizes = part.keys, part.lines, part.sizes
        if len(set(part.ids)) < len(keys) or not self._places.keys().isdisjoint(part.ids):
            keys, lines, sizes = self._renamed(keys, lines, sizes)
        self._places.update(zip([key.id for key in keys], range(len(self.keys), len(self.keys) + len(keys)), strict=True))
        self._sizes.append(sizes)
        self._raw_sizes.append(part.raw_sizes)
        self.rows.append(lines)
        self.raws.append(part.raws)
        self._traces.add(part.traces)
        self.changes += [(keys[place].id, change) for place, change in part.changes]
        self.keys += keys

    def table(self) -> Table:
        """The rows, with their traces where all of them are traced."""
        at = np.cumsum(np.concatenate(self._sizes))[:-1]
        if len(self._traces) == len(at):
            self._traces.of(self.rows, at)
        return Table(self.rows, at, tuple(self.keys))

    def raw(self) -> RawText:
        """Their raw texts."""
        return RawText(self.raws, self._places, np.cumsum(np.concatenate(self._raw_sizes)))

    def _renamed(self, keys: list[Keys], lines: bytes, sizes: NDArray[np.int64]) -> tuple[list[Keys], bytes, NDArray[np.int64]]:
        """The rows with an id of its own for each."""
        taken, made, texts, begin = set[str](), list[Keys](), list[bytes](), 0
        for key, size in zip(keys, sizes.tolist(), strict=True):
            name, number, line = key.id, 1, lines[begin : begin + size]
            begin += size
            while name in self._places or name in taken:
                number = self._last[key.id] = self._last.get(key.id, 1) + 1  # a column of one value for all rows must not be counted through for each
                name = f"{key.id}-{number}"
            taken.add(name)
            made.append(key if number == 1 else key._replace(id=name))
            texts.append(line if number == 1 else line_of(ROW.validate_json(line).model_copy(update={"id": name})))
        return made, *_joined(texts)
