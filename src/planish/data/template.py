"""Prompts that share a template with many rows: whether what they fill it with is alike too (MISSION D9).

An instruction of forty words with one word to fill in makes all its rows near-duplicates of each other; what they ask is the one word.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.overlap import COMMON, COMMON_SHARE, distinct
from planish.data.parallel import map_threads
from planish.data.ragged import Ragged
from planish.data.shingles import WIDTH, ngrams


class _Own(NamedTuple):
    words: bytes
    own: frozenset[int]


class Templates:
    """Held-out and searched prompts as words. A word 5-gram of several held-out prompts, of more than 10 of all and more than a thousandth of them, is a template's."""

    def __init__(self, held: Ragged, searched: Ragged) -> None:
        self._held, self._searched = held, searched

    def alike(self, left: NDArray[np.int64], right: NDArray[np.int64], threshold: float) -> NDArray[np.bool_]:
        """Whether the words outside of templates of each pair, a held-out prompt and a searched one, have a Jaccard of at least `threshold`, (_P,). A pair without
        templates is alike; one with nothing outside of them is if all words are equal."""
        common = self._common(distinct(left))
        if not len(common):
            return np.ones(len(left), bool)
        ours, theirs = (_own(side, distinct(rows), common) for side, rows in ((self._held, left), (self._searched, right)))
        return np.array([_alike(ours[a], theirs[b], threshold) for a, b in zip(left.tolist(), right.tolist(), strict=True)], bool)

    def _common(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The templates' 5-grams among those of some held-out prompts, sorted."""
        asked = _grams(self._held.only(rows))
        wanted = np.unique(asked[0])
        if not len(wanted):
            return wanted
        held, searched = (sum(map_threads(partial(_holding, wanted), side.parts()), np.zeros(len(wanted), np.int64)) for side in (self._held, self._searched))
        return wanted[(held > 1) & (held + searched > max(COMMON, COMMON_SHARE * (len(self._held) + len(self._searched))))]


def _grams(prompts: Ragged) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    return ngrams(prompts.values, prompts.sizes, WIDTH)


def _holding(wanted: NDArray[np.uint64], part: tuple[NDArray[np.uint32], NDArray[np.int64]]) -> NDArray[np.int64]:
    """How many prompts of a part hold each of the wanted 5-grams, which are sorted."""
    grams, owner = ngrams(*part, WIDTH)
    at = np.searchsorted(wanted, grams).clip(max=len(wanted) - 1)
    known = np.flatnonzero(wanted[at] == grams)
    return np.bincount(distinct((owner[known] << 32) | at[known]) & 0xFFFFFFFF, minlength=len(wanted))


def _own(prompts: Ragged, rows: NDArray[np.int64], common: NDArray[np.uint64]) -> dict[int, _Own | None]:
    """For each of some prompts its words, and those outside of templates; None where it has no template."""
    found: dict[int, _Own | None] = {}
    for row in rows.tolist():
        words = prompts.values[prompts.starts[row] : prompts.starts[row + 1]]
        grams, _ = ngrams(words, np.array([len(words)]), WIDTH)
        begins = np.flatnonzero(common[np.searchsorted(common, grams).clip(max=len(common) - 1)] == grams)
        covered = np.zeros(len(words), bool)
        covered[(begins[:, None] + np.arange(WIDTH)).ravel()] = True
        found[row] = _Own(words.tobytes(), frozenset(words[~covered].tolist())) if len(begins) else None
    return found


def _alike(ours: _Own | None, theirs: _Own | None, threshold: float) -> bool:
    if ours is None or theirs is None or ours.words == theirs.words:
        return True
    either = ours.own | theirs.own
    return bool(either) and len(ours.own & theirs.own) >= threshold * len(either)
