"""Tokenised rows on disk: made once for the same rows, tokenizer, template and options, read back as arrays that are never wholly in memory (MISSION K6).

A folder holds, each in the machine's own little-endian numbers: `ids` (T,) int32, all sequences one after the other; `ends` (S,) int64, where each sequence ends in it;
`spans` (P, 2) int64, the runs of scored tokens by their places in `ids`, with `span_weights` (P,) float32; `given` (G,) float64, an objective's
own numbers, and `given_ends` (S,) int64, where each sequence's end; `rows` (N,) int64, the number of sequences up to and with each
row, with `shares` (N,) float64, its part of a step's divisor. `row_ids.txt` names the rows, one JSON string a line; `faults.jsonl` the rows that were refused, and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.tree import Sequence
from planish.rows import RejectCode

if TYPE_CHECKING:
    from planish.model.example import Example

MANIFEST = "tokens.json"
ARRAYS = {"ids": "<i4", "ends": "<i8", "spans": "<i8", "span_weights": "<f4", "given": "<f8", "given_ends": "<i8", "rows": "<i8", "shares": "<f8"}


class Fault(NamedTuple):
    """A row that is not in the store, and why."""

    row: str
    code: RejectCode
    why: str


@dataclass(frozen=True)
class TokenStore:
    """N rows of S sequences of T tokens; see the module's text for the files."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Counts and what the store was made from."""
        found: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        return found

    def __len__(self) -> int:
        return int(self.manifest["counts"]["rows"])

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """(T,) all token ids, mapped from the file."""
        return self._array("ids")

    @cached_property
    def row_ids(self) -> list[str]:
        """(N,) the rows' ids, in order."""
        return [json.loads(line) for line in (self.folder / "row_ids.txt").read_text(encoding="utf-8").splitlines()]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(S,) tokens of each sequence."""
        return np.diff(self._array("ends"), prepend=0)

    @cached_property
    def scored(self) -> NDArray[np.int64]:
        """(S,) trained tokens of each sequence."""
        spans = self._spans
        before = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])
        return np.diff(before[self._span_ends], prepend=0)

    @property
    def faults(self) -> Iterator[Fault]:
        """The rows that were refused."""
        with (self.folder / "faults.jsonl").open(encoding="utf-8") as stream:
            for line in stream:
                row, code, why = json.loads(line)
                yield Fault(row, RejectCode(code), why)

    def sequences(self, row: int) -> tuple[Sequence, ...]:
        """The sequences of a row."""
        rows = self._array("rows")
        return tuple(self._sequence(index) for index in range(int(rows[row - 1]) if row else 0, int(rows[row])))

    def example(self, row: int) -> Example:
        """A row as the loop takes it."""
        from planish.model.example import Example

        return Example(self.sequences(row), float(self._array("shares")[row]))

    def _sequence(self, index: int) -> Sequence:
        ends = self._array("ends")
        begin, end = int(ends[index - 1]) if index else 0, int(ends[index])
        weights = np.zeros(end - begin, np.float64)
        first, last = int(self._span_ends[index - 1]) if index else 0, int(self._span_ends[index])
        for (start, stop), weight in zip(self._spans[first:last].tolist(), self._array("span_weights")[first:last].tolist(), strict=True):
            weights[start - begin : stop - begin] = weight
        given_ends = self._array("given_ends")
        given = self._array("given")[int(given_ends[index - 1]) if index else 0 : int(given_ends[index])]
        return Sequence(tuple(self.ids[begin:end].tolist()), tuple(weights.tolist()), tuple(given.tolist()))

    @cached_property
    def _spans(self) -> NDArray[np.int64]:
        return self._array("spans").reshape(-1, 2)

    @cached_property
    def _span_ends(self) -> NDArray[np.int64]:
        """(S,) number of spans up to and with each sequence."""
        return np.searchsorted(self._spans[:, 0], self._array("ends"), side="left")

    def _array(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        files = {name: self.folder / f"{name}.bin" for name in ARRAYS}
        return {name: np.memmap(path, ARRAYS[name], "r") if path.stat().st_size else np.empty(0, ARRAYS[name]) for name, path in files.items()}
