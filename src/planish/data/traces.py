"""What of a row is compared with other rows, worked out once for all checks that ask, and kept on disk beside the rows (MISSION D6, D9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from planish.data.parallel import map_chunks
from planish.data.ragged import Ragged
from planish.data.shingles import Shingles
from planish.data.sketch import BANDS, PERMUTATIONS, Sketched
from planish.data.spool import Spool
from planish.data.table import ROW, Table
from planish.data.trace import texts_of
from planish.data.trace_columns import DIGEST, Columns, columns_of

_FIXED = {"prompt": ("u1", DIGEST), "tells": ("?", 1), "sizes": ("<u4", 2)}
_FIXED |= {f"{text}_{part}": kind for text in ("whole", "near") for part, kind in (("sketch", ("u1", PERMUTATIONS)), ("keys", ("<u4", BANDS)))}
_RAGGED = ("asked", "body", "whole", "near")
"""Columns of so many numbers a row, and of as many as a row happens to have. `whole` is what the whole text, `near` what the prompt is likened by."""


@dataclass(frozen=True)
class Traces:
    """The traces of _N rows, by column; a column is read where it is asked for. The columns are those of `trace_columns.Columns`."""

    kept: Kept
    rows: NDArray[np.int64] | None  # None: all that are kept

    def __len__(self) -> int:
        return len(self.kept.places) if self.rows is None else len(self.rows)

    @property
    def prompt(self) -> NDArray[np.uint8]:
        """Digests of the prompts (_N, 16), zeros where a prompt is too short to be recognised by itself."""
        return self._fixed("prompt")

    @property
    def tells(self) -> NDArray[np.bool_]:
        """Whether the prompt holds the whole answer, (_N,)."""
        return self._fixed("tells").ravel()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Characters of prompt and answer, (_N, 2)."""
        return self._fixed("sizes").astype(np.int64)

    @cached_property
    def asked(self) -> Ragged:
        """The words of the prompts."""
        return self._ragged("asked")

    @cached_property
    def body(self) -> Ragged:
        """The words of the whole texts."""
        return self._ragged("body")

    @property
    def whole(self) -> Sketched:
        """The whole texts as sets."""
        return self._sketched("whole")

    @cached_property
    def near(self) -> Sketched:
        """The prompts as sets; too short ones have none."""
        return self._sketched("near")

    def _fixed(self, name: str) -> NDArray[Any]:
        kind, width = _FIXED[name]
        found = self.kept.spools[name].numbers(kind).reshape(-1, width)
        return found if self.rows is None else found[self.rows]

    def _ragged(self, name: str) -> Ragged:
        found = Ragged.sized(self.kept.spools[name].numbers("<u4"), self.kept.lengths[name])
        return found if self.rows is None else found.only(self.rows)

    def _sketched(self, name: str) -> Sketched:
        found = self._ragged(name)
        return Sketched(Shingles(found.values, found.starts), self._fixed(f"{name}_sketch"), self._fixed(f"{name}_keys"))


class Kept:
    """Traces on their way to disk: a spool for each column, and how many numbers each row has in a ragged one."""

    def __init__(self) -> None:
        self.spools = {name: Spool() for name in (*_FIXED, *_RAGGED)}
        self._lengths: dict[str, list[NDArray[np.int64]]] = {name: [np.zeros(0, np.int64)] for name in _RAGGED}
        self.places = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return sum(map(len, self._lengths["whole"]))

    def add(self, parts: Sequence[Columns]) -> None:
        """More rows."""
        for name, values in chain.from_iterable(columns.items() for columns in parts):
            numbers = values.values if isinstance(values, Ragged) else values
            self.spools[name].append(np.ascontiguousarray(numbers).view("u1").data if numbers.size else b"")
            if isinstance(values, Ragged):
                self._lengths[name].append(values.sizes)

    def of(self, spool: Spool, places: NDArray[np.int64]) -> None:
        """These are the traces of the rows at some places (_N,) of a spool, in ascending order: `traces` gives them."""
        self.places = places
        self.lengths = {name: np.concatenate(parts) for name, parts in self._lengths.items()}
        _KEPT[spool] = self


_KEPT: WeakKeyDictionary[Spool, Kept] = WeakKeyDictionary()


def traces(rows: Table) -> Traces:
    """The trace of every row, in order. Rows whose traces were kept as they were read, or asked for before with others of their file, are not read again."""
    kept = _KEPT.get(rows.spool)
    if kept is None or (which := _among(kept.places, rows.at)) is None:
        kept, places = Kept(), np.sort(rows.at)
        for made in map_chunks(partial(_traced, rows.spool), places.tolist()):
            kept.add(made)
        kept.of(rows.spool, places)
        which = np.searchsorted(places, rows.at)
    same = len(which) == len(kept.places) and bool((which[1:] > which[:-1]).all())
    return Traces(kept, None if same else which)


def _among(places: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Where each of some places stands among ascending ones; None where one of them does not."""
    if not len(places):
        return None if len(wanted) else np.zeros(0, np.int64)
    at = np.searchsorted(places, wanted)
    return at if (places[np.minimum(at, len(places) - 1)] == wanted).all() else None


def _traced(spool: Spool, places: Sequence[int]) -> list[Columns]:
    return columns_of([texts_of(ROW.validate_json(line)) for line in spool.lines(places)])
