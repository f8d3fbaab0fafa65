"""Texts as sets of hashed n-grams, held in flat arrays: what near-duplicate and leakage checks compare (MISSION D6, D9).

_N rows, _S shingles of all rows together, _U units (words or characters) of all rows together.
"""

from __future__ import annotations

import array
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from planish.data.normalise import normalised

WIDTH = 5
"""Words in a shingle; characters where a text is short."""

SHORT = 20
"""Texts with fewer words than this are compared by characters: word 5-grams would leave them next to nothing to share."""

_ROWS = 4096  # rows hashed in one go
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_ASCII = bytes(byte if chr(byte).isalnum() or byte > 127 else 32 for byte in range(256))


def words(text: str) -> list[bytes]:
    """The words of the normalised text, without punctuation and symbols, as UTF-8."""
    return words_of(normalised(text))


def words_of(folded: str) -> list[bytes]:
    """The words of a text that is normalised already."""
    if folded.isascii():
        return folded.encode().translate(_ASCII).split()
    return folded.translate(_marks()).encode("utf-8", "surrogatepass").split()


def word_units(text: str) -> bytes:
    """One uint32 a word."""
    return hashes_of(words(text))


def hashes_of(found: list[bytes]) -> bytes:
    """One uint32 a word, of words that are found already."""
    return array.array("I", map(crc32, found)).tobytes()


def units(text: str) -> bytes:
    """What the shingles of a text are made of, one uint32 each: its words, or its characters below 20 words."""
    found = words(text)
    return units_of(found, hashes_of(found))


def units_of(found: list[bytes], hashes: bytes) -> bytes:
    """The units of a text whose words are found and hashed already."""
    if len(found) >= SHORT:
        return hashes
    return b" ".join(found).decode("utf-8", "surrogatepass").encode("utf-32-le", "surrogatepass")


@cache
def _marks() -> dict[int, str]:
    """Punctuation and symbols, each to be read as a space. Vowel signs and accents are neither: they belong to their words."""
    return {point: " " for point in range(0x10000) if unicodedata.category(chr(point))[0] in "PS"}


def ngrams(flat: NDArray[np.uint32], lengths: NDArray[np.int64], n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash of every `n` neighbouring units of one row, and the row of each. `flat` (_U,) holds the units of rows of `lengths` (_N,) one after another."""
    count = len(flat) - n + 1
    if count < 1:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashed = np.zeros(count, np.uint64)
    for offset in range(n):
        hashed *= _BASE
        hashed += flat[offset : offset + count]
        hashed ^= hashed >> np.uint64(31)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    inside = owner[:count] == owner[n - 1 :]
    hashed = hashed[inside] * _MIX
    return hashed ^ (hashed >> np.uint64(32)), owner[:count][inside]


def chunks(texts: Iterable[bytes]) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
    """The units of some thousand rows at a time: flat (_U,), and the number of units of each row (_N,)."""
    source = iter(texts)
    while part := list(islice(source, _ROWS)):
        yield np.frombuffer(b"".join(part), np.uint32), np.array([len(each) // 4 for each in part], np.int64)


@dataclass(frozen=True)
class Shingles:
    """The sets of _N rows. Row i has `values[starts[i]:starts[i + 1]]`: sorted, none twice. A row of fewer than 5 units has none.

    values: (_S,) uint32 hashes, of which two different shingles of one pair of rows share one with a probability of 1e-6. starts: (_N + 1,) int64.
    """

    values: NDArray[np.uint32]
    starts: NDArray[np.int64]

    @staticmethod
    def of(texts: Iterable[bytes]) -> Shingles:
        """From the `units` of each row."""
        values, sizes = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        for flat, lengths in chunks(texts):
            hashed, owner = ngrams(flat, lengths, WIDTH)
            keyed = np.sort((owner.astype(np.uint64) << np.uint64(32)) | (hashed >> np.uint64(32)))
            keyed = keyed[np.concatenate(([True], keyed[1:] != keyed[:-1]))] if len(keyed) else keyed
            values.append(keyed.astype(np.uint32))
            sizes.append(np.bincount((keyed >> np.uint64(32)).astype(np.int64), minlength=len(lengths)))
        return Shingles(np.concatenate(values), np.concatenate(([0], np.cumsum(np.concatenate(sizes)))))

    @staticmethod
    def joined(parts: Sequence[Shingles]) -> Shingles:
        """The rows of several, one after another."""
        sizes = np.concatenate([np.zeros(0, np.int64), *(part.sizes for part in parts)])
        values = np.concatenate([np.zeros(0, np.uint32), *(part.values for part in parts)])
        return Shingles(values, np.concatenate(([0], np.cumsum(sizes))))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Shingles of each row, (_N,)."""
        return np.diff(self.starts)

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The values of some rows one after another, and for each value its place in `rows`."""
        lengths = self.sizes[rows]
        begins = np.cumsum(lengths) - lengths
        at = np.repeat(self.starts[rows] - begins, lengths) + np.arange(lengths.sum())
        return self.values[at], np.repeat(np.arange(len(rows)), lengths)
