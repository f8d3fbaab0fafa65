"""What of a row is compared with other rows, worked out once for all checks that ask, and kept on disk beside the rows (MISSION D6, D9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from planish.data.parallel import map_chunks
from planish.data.ragged import Ragged
from planish.data.shingles import Shingles
from planish.data.sketch import BANDS, PERMUTATIONS, Sketched
from planish.data.spool import Spool
from planish.data.table import Table
from planish.data.trace import DIGEST, trace_of_line

_FIXED = {"prompt": ("u1", DIGEST), "tells": ("?", 1), "sizes": ("<u4", 2)}
_FIXED |= {f"{text}_{part}": kind for text in ("whole", "near") for part, kind in (("sketch", ("u1", PERMUTATIONS)), ("keys", ("<u4", BANDS)))}
_RAGGED = ("asked", "body", "whole", "near")
"""Columns of so many numbers a row, and of as many as a row happens to have. `whole` is what the whole text, `near` what the prompt is likened by."""


@dataclass(frozen=True)
class Traces:
    """The traces of _N rows, by column; a column is read where it is asked for. The texts are those of `trace.Trace`."""

    kept: _Kept
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

    @property
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


def traces(rows: Table) -> Traces:
    """The trace of every row, in order. Rows whose traces were asked for before, with others of their file, are not read again."""
    kept = _KEPT.get(rows.spool)
    if kept is None or not np.isin(rows.at, kept.places).all():
        kept = _KEPT[rows.spool] = _Kept.of(rows)
    same = len(rows.at) == len(kept.places) and bool((rows.at == kept.places).all())
    return Traces(kept, None if same else np.searchsorted(kept.places, rows.at))


@dataclass(frozen=True)
class _Kept:
    """Traces on disk: `places` (_N,) of their rows, ascending; a spool for each column; and how many numbers each row has in a ragged one, (_N,)."""

    places: NDArray[np.int64]
    spools: dict[str, Spool]
    lengths: dict[str, NDArray[np.int64]]

    @staticmethod
    def of(rows: Table) -> _Kept:
        places = np.sort(rows.at)
        spools = {name: Spool() for name in (*_FIXED, *_RAGGED)}
        lengths: dict[str, list[NDArray[np.int64]]] = {name: [np.zeros(0, np.int64)] for name in _RAGGED}
        for made in map_chunks(partial(_traced, rows.spool), places.tolist()):
            for name, values in made.items():
                numbers = values.values if isinstance(values, Ragged) else values
                spools[name].append(np.ascontiguousarray(numbers).view("u1").data if numbers.size else b"")
                if isinstance(values, Ragged):
                    lengths[name].append(values.sizes)
        return _Kept(places, spools, {name: np.concatenate(parts) for name, parts in lengths.items()})


_KEPT: WeakKeyDictionary[Spool, _Kept] = WeakKeyDictionary()


def _traced(spool: Spool, places: Sequence[int]) -> dict[str, NDArray[Any] | Ragged]:
    """The columns of the rows at some places."""
    made = list(map(trace_of_line, spool.lines(places)))
    whole, near = (Sketched.of(Shingles.of(texts)) for texts in ([each.whole for each in made], [each.shingles for each in made]))
    columns: dict[str, NDArray[Any] | Ragged] = {
        "prompt": np.frombuffer(b"".join([each.prompt or bytes(DIGEST) for each in made]), np.uint8),
        "tells": np.array([each.tells for each in made], bool),
        "sizes": np.array([each.sizes for each in made], np.uint32),
        "asked": Ragged.packed(each.asked for each in made),
        "body": Ragged.packed(each.body for each in made),
    }
    for name, sketched in (("whole", whole), ("near", near)):
        columns |= {name: Ragged(sketched.sets.values, sketched.sets.starts), f"{name}_sketch": sketched.sketch, f"{name}_keys": sketched.keys}
    return columns
