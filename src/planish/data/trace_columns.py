"""The texts of many rows as what is compared of them: hashed words, sets of shingles and their signatures, each a column (MISSION D6, D9).

_N rows, _T texts of all rows together, _W words of all texts together.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from planish.data.ragged import Ragged
from planish.data.shingles import SHORT, Shingles, blanked, word_units
from planish.data.sketch import Sketched
from planish.data.trace import Texts

WORDS = 5
"""A question of fewer words is recognised only exactly, with everything around it: "summarise this" is asked of many texts."""

DIGEST = 16
"""Bytes of a prompt's digest."""

Columns = dict[str, NDArray[Any] | Ragged]
"""`prompt`: digests of the prompts, and `near`: what they are likened by (both empty below 5 words); `asked`: their words; `body` and `whole`: words and units of
everything; `tells`: whether the prompt holds the whole answer; `sizes`: characters of prompt and answer. Units and words are those of `shingles`."""

_AT_ONCE = 1 << 17  # characters looked at in one go
_BLANK, _BREAK = 32, 10


def columns_of(rows: Sequence[Texts]) -> list[Columns]:
    """The columns of some rows, of as many at a time as their texts stay in the processor's cache."""
    return list(map(_columns, _runs(rows)))


def _runs(rows: Sequence[Texts]) -> Iterator[Sequence[Texts]]:
    first = size = 0
    for place, row in enumerate(rows):
        size += sum(map(len, row.folded))
        if size > _AT_ONCE:
            yield rows[first : place + 1]
            first, size = place + 1, 0
    if first < len(rows):
        yield rows[first:]


def _columns(rows: Sequence[Texts]) -> Columns:
    words = _Words.of([text for row in rows for text in row.folded])
    counts, asked, body = (np.array(each, np.int64) for each in ([len(row.folded) for row in rows], [row.asked for row in rows], [row.body for row in rows]))
    ends = np.cumsum(counts)
    prompt = words.edges[ends - counts], words.edges[ends - counts + asked]
    everything = words.edges[ends - counts + body], words.edges[ends]
    known = prompt[1] - prompt[0] >= WORDS
    answered = words.edges[ends] - words.edges[ends - 1]
    tells = (answered >= WORDS) & (answered <= prompt[1] - prompt[0]) | (body > 0)
    for place in np.flatnonzero(tells).tolist():
        row = rows[place]
        tells[place] = row.said is not None and _holds(word_units(row.said), word_units(row.answer))
    columns: Columns = {
        "prompt": np.frombuffer(b"".join([_digest(row) if is_known else bytes(DIGEST) for row, is_known in zip(rows, known.tolist(), strict=True)]), np.uint8),
        "tells": tells,
        "sizes": np.fromiter(chain.from_iterable([row.sizes for row in rows]), np.uint32, 2 * len(rows)),
        "asked": words.hashed(*prompt),
        "body": words.hashed(*everything),
    }
    for name, units in (("whole", words.units(*everything)), ("near", words.units(prompt[0], np.where(known, prompt[1], prompt[0])))):
        sketched = Sketched.of(Shingles.among(units))
        columns |= {name: Ragged(sketched.sets.values, sketched.sets.starts), f"{name}_sketch": sketched.sketch, f"{name}_keys": sketched.keys}
    return columns


def _digest(row: Texts) -> bytes:
    """Of the normalised prompt."""
    prompt = row.folded[0] if row.asked == 1 else " ".join([text for text in row.folded[: row.asked] if text])
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:DIGEST]


def _holds(asked: bytes, answered: bytes) -> bool:
    """Whether what the user says holds the whole answer, of five words at least; both as units of words."""
    at = asked.find(answered) if len(answered) >= 4 * WORDS else -1
    while at > 0 and at % 4:  # between two words only
        at = asked.find(answered, at + 1)
    return at >= 0


@dataclass(frozen=True)
class _Words:
    """Texts cut into words. Text k has the words from `edges[k]` to `edges[k + 1]`, (_T + 1,); `hashes` (_W,) are theirs; a word stands in `characters` from `begins`
    to `ends`, (_W,), and a blank behind it."""

    edges: NDArray[np.int64]
    hashes: NDArray[np.uint32]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    characters: NDArray[Any]

    @staticmethod
    def of(texts: Sequence[str]) -> _Words:
        """From normalised texts."""
        data = b"\n".join([*map(blanked, texts), b""])
        wide = (
            np.frombuffer(data, np.uint8)
            if data.isascii()
            else np.frombuffer(data.decode("utf-8", "surrogatepass").encode("utf-32-le", "surrogatepass"), "<u4")
        )
        blank = (wide == _BLANK) | (wide == _BREAK)
        inside = ~blank
        inside[1:] &= blank[:-1]
        begins = np.flatnonzero(inside)
        ends = np.flatnonzero(blank[1:] & ~blank[:-1]) + 1
        edges = np.searchsorted(begins, np.flatnonzero(wide == _BREAK))
        hashes = np.frombuffer(array("I", map(crc32, data.split())), np.uint32)
        return _Words(np.concatenate([[0], edges]), hashes, begins, ends, np.where(blank, wide.dtype.type(_BLANK), wide))

    def hashed(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Ragged:
        """The words of each row, of which the first and the end are given, (_N,)."""
        return Ragged.sized(self.hashes[_within(begins, ends)], ends - begins)

    def spelled(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Ragged:
        """The characters of the words of each row, a blank between any two."""
        words = _within(begins, ends)
        spelled = self.characters[_within(self.begins[words], self.ends[words] + 1)].astype(np.uint32)
        before = np.concatenate([[0], np.cumsum(self.ends + 1 - self.begins)])
        sizes = before[ends] - before[begins]
        some = sizes > 0
        return Ragged.sized(np.delete(spelled, np.cumsum(sizes)[some] - 1), sizes - some)

    def units(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Ragged:
        """What the shingles of each row are made of."""
        long = ends - begins >= SHORT
        order = np.argsort(np.concatenate([np.flatnonzero(long), np.flatnonzero(~long)]))
        return Ragged.joined([self.hashed(begins[long], ends[long]), self.spelled(begins[~long], ends[~long])]).only(order)


def _within(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every place of some runs, one run after another."""
    sizes = ends - begins
    return np.asarray(np.repeat(begins - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum()))
