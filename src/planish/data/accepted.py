"""Accepted rows on their way to disk, and the raw text of each beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.data.clean import Change
from planish.data.normalise import SIZE
from planish.data.spool import Spool
from planish.data.table import ROW, Keys, Table, line_of
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


class Part:
    """A run of rows on its way to disk, in plain values that cost little to hand from process to process."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str, str | None, str | None, int]] = []
        self.digests: list[bytes] = []  # of question and answer, 32 bytes a row
        self.lines: list[bytes] = []
        self.raws: list[bytes] = []
        self.changes: list[tuple[int, Change]] = []  # the place of the row in this run, and what was tidied
        self.rejected: list[RejectedRow] = []

    def add(self, keys: Keys, line: bytes, raw: bytes) -> None:
        """One more row."""
        self.keys.append((keys.id, keys.shape, keys.group, keys.label, keys.line))
        self.digests.append(keys.duplicate)
        self.lines.append(line)
        self.raws.append(raw)

    def __getstate__(self) -> tuple[Any, ...]:
        """Texts as one text with their lengths: a list of many is slow to hand over."""
        packed = [(b"".join(texts), list(map(len, texts))) for texts in (self.lines, self.raws)]
        return tuple(zip(*self.keys, strict=True)), b"".join(self.digests), packed, self.changes, self.rejected

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        keys, digests, packed, self.changes, self.rejected = state
        self.keys = list(zip(*keys, strict=True))
        self.digests = [digests[at : at + 2 * SIZE] for at in range(0, len(digests), 2 * SIZE)]
        self.lines, self.raws = ([text[begin:end] for begin, end in pairwise(accumulate(sizes, initial=0))] for text, sizes in packed)


class Accepted:
    """The accepted rows on their way to disk."""

    def __init__(self) -> None:
        self.rows, self.raws = Spool(), Spool()
        self.keys: list[Keys] = []
        self._sizes: list[int] = []
        self._raw_sizes: list[int] = []
        self._places: dict[str, int] = {}
        self.changes: list[tuple[str, Change]] = []

    def add(self, part: Part) -> None:
        """More rows; an id that another row has already becomes `…-2`, then `…-3`."""
        keys = [Keys(*own, digest, digest[:SIZE], digest[SIZE:]) for own, digest in zip(part.keys, part.digests, strict=True)]
        for place, key in enumerate(keys):
            if key.id in self._places:
                keys[place], part.lines[place] = self._renamed(key, part.lines[place])
            self._places[keys[place].id] = len(self.keys) + place
        self._sizes += map(len, part.lines)
        self._raw_sizes += map(len, part.raws)
        self.rows.append(b"".join(part.lines))
        self.raws.append(b"".join(part.raws))
        self.changes += [(keys[place].id, change) for place, change in part.changes]
        self.keys += keys

    def table(self) -> Table:
        """The rows."""
        return Table(self.rows, np.cumsum([0, *self._sizes], dtype=np.int64)[:-1], tuple(self.keys))

    def raw(self) -> RawText:
        """Their raw texts."""
        return RawText(self.raws, self._places, np.cumsum([0, *self._raw_sizes], dtype=np.int64))

    def _renamed(self, key: Keys, line: bytes) -> tuple[Keys, bytes]:
        number = 2
        while (name := f"{key.id}-{number}") in self._places:
            number += 1
        return key._replace(id=name), line_of(ROW.validate_json(line).model_copy(update={"id": name}))
