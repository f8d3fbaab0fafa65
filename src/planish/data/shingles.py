"""Texts as sets of hashed n-grams, held in flat arrays: what near-duplicate and leakage checks compare (MISSION D6, D9).

_N rows, _S shingles of all rows together, _U units (words or characters) of all rows together.
"""

from __future__ import annotations

import array
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from planish.data.normalise import normalised
from planish.data.ragged import Ragged

WIDTH = 5
"""Words in a shingle; characters where a text is short."""

SHORT = 20
"""Texts with fewer words than this are compared by characters: word 5-grams would leave them next to nothing to share."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_ASCII = bytes(ord(chr(byte).lower()) if chr(byte).isalnum() and byte < 128 else 32 for byte in range(256))


def words(text: str) -> list[bytes]:
    """The words of the normalised text, without punctuation and symbols, as UTF-8."""
    return blanked(text if text.isascii() else normalised(text)).split()


def blanked(folded: str) -> bytes:
    """A text that is normalised already, or ASCII, with blanks for all that is no word."""
    if folded.isascii():
        return folded.encode().translate(_ASCII)
    return folded.translate(_marks()).encode("utf-8", "surrogatepass")


def word_units(text: str) -> bytes:
    """One uint32 a word."""
    return _hashes(words(text))


def _hashes(found: list[bytes]) -> bytes:
    return array.array("I", map(crc32, found)).tobytes()


def units(text: str) -> bytes:
    """What the shingles of a text are made of, one uint32 each: its words, or its characters below 20 words."""
    found = words(text)
    if len(found) >= SHORT:
        return _hashes(found)
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
    wide = flat.astype(np.uint64)
    hashed = np.zeros(count, np.uint64)
    high = np.empty(count, np.uint64)
    for offset in range(n):
        hashed *= _BASE
        hashed += wide[offset : offset + count]
        hashed ^= np.right_shift(hashed, np.uint64(31), out=high)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    inside = owner[:count] == owner[n - 1 :]
    hashed = hashed[inside] * _MIX
    return hashed ^ (hashed >> np.uint64(32)), owner[:count][inside]


@dataclass(frozen=True)
class Shingles(Ragged):
    """The sets of _N rows: the values of a row are sorted, none twice. A row of fewer than 5 units has none.

    Values are hashes, of which two different shingles of one pair of rows share one with a probability of 1e-6.
    """

    @staticmethod
    def of(texts: Iterable[bytes]) -> Shingles:
        """From the `units` of each row."""
        return Shingles.among(Ragged.packed(texts))

    @staticmethod
    def among(units: Ragged) -> Shingles:
        """From the units of all rows."""
        return Shingles.joined([_sets(*part) for part in units.parts()])


def _sets(flat: NDArray[np.uint32], lengths: NDArray[np.int64]) -> Shingles:
    hashed, owner = ngrams(flat, lengths, WIDTH)
    keyed = np.sort((owner.astype(np.uint64) << np.uint64(32)) | (hashed >> np.uint64(32)))
    keyed = keyed[np.concatenate(([True], keyed[1:] != keyed[:-1]))] if len(keyed) else keyed
    return Shingles.sized(keyed.astype(np.uint32), np.bincount((keyed >> np.uint64(32)).astype(np.int64), minlength=len(lengths)))
