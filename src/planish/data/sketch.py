"""MinHash signatures of rows' shingles, which are rensa's, cut down to what they are compared by (MISSION D6).

_N rows, as in `shingles`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash  # type: ignore[import-untyped]

from planish.data.shingles import Shingles

PERMUTATIONS, BANDS, ROWS = 128, 32, 4
"""Hash functions of a signature; it is cut into 32 bands of 4, and two rows that agree in a whole band are compared."""

_SEED = 42
_SIGNED = 128  # rensa gives lists of numbers: of so few rows they stay in the processor's cache, in half the time


def proposed(similarity: float, *, bands: int = BANDS, rows: int = ROWS) -> float:
    """Probability that a pair of this Jaccard agrees in at least one band, and so is compared: 1 - (1 - J^r)^b."""
    return float(1 - (1 - similarity**rows) ** bands)


@dataclass(frozen=True)
class Sketched:
    """Rows' sets with what MinHash says of them. sketch: (_N, 128) uint8, the lowest byte of each hash: two agree by chance 1 of 256. keys: (_N, 32) uint32, the
    four hashes of each band as one number: two different bands share one by chance once in 4e9, which costs a comparison."""

    sets: Shingles
    sketch: NDArray[np.uint8]
    keys: NDArray[np.uint32]

    @staticmethod
    def of(sets: Shingles) -> Sketched:
        """Sign the rows."""
        signed = signatures(sets)
        return Sketched(sets, signed.astype(np.uint8), _band_keys(signed))

    @staticmethod
    def joined(parts: Sequence[Sketched]) -> Sketched:
        """The rows of several, one after another."""
        if len(parts) == 1:
            return parts[0]
        sketch = np.concatenate([np.zeros((0, PERMUTATIONS), np.uint8), *(part.sketch for part in parts)])
        keys = np.concatenate([np.zeros((0, BANDS), np.uint32), *(part.keys for part in parts)])
        return Sketched(Shingles.joined(part.sets for part in parts), sketch, keys)

    def only(self, rows: NDArray[np.int64]) -> Sketched:
        """Some rows, in the order they are named."""
        return Sketched(self.sets.only(rows), self.sketch[rows], self.keys[rows])

    def __len__(self) -> int:
        return len(self.sets)


def signatures(sets: Shingles) -> NDArray[np.uint32]:
    """(_N, 128) MinHash signatures."""
    return np.concatenate([np.zeros((0, PERMUTATIONS), np.uint32), *(_signed(sets, begin) for begin in range(0, len(sets), _SIGNED))])


def _signed(sets: Shingles, begin: int) -> NDArray[np.uint32]:
    """Signatures of the rows from `begin` on, of as many as are signed at one time."""
    starts = sets.starts[begin : begin + _SIGNED + 1]
    flat = sets.values[starts[0] : starts[-1]].astype(np.uint64)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(flat, (starts - starts[0]).astype(np.uint64), PERMUTATIONS, _SEED).to_rows()
    return np.frombuffer(b"".join([array("I", row).tobytes() for row in rows]), np.uint32).reshape(-1, PERMUTATIONS)


def _band_keys(signed: NDArray[np.uint32]) -> NDArray[np.uint32]:
    grouped = signed.reshape(len(signed), BANDS, ROWS)
    keys = np.zeros((len(signed), BANDS), np.uint64)
    for row in range(ROWS):
        keys = (keys ^ grouped[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return (keys >> np.uint64(32)).astype(np.uint32)
