"""Which texts hold word n-grams of others: contamination by what was copied, in one pass (MISSION D9).

An n-gram of an evaluation text that a training text holds is a match when the text is long; a short text must be held almost whole, because five words in a
row are often a mere turn of phrase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.ragged import Ragged
from planish.data.shingles import ngrams

LONG, SHORT = 13, 5
"""Words of an n-gram, for texts of at least 26 words and for shorter ones."""

LONG_TEXT = 26
HELD = 0.8
"""Share of a short text's 5-grams that the other text must hold."""

LEAST = 3
"""A text with fewer 5-grams than this, so fewer than seven words, says too little to be recognised by them."""

COMMON = 10
"""An n-gram of more evaluation texts than this is a template they share, and is not counted (Brown et al. 2020, appendix C, drop those of more than 10)."""

_LOWEST = np.uint64(0xFFFFFF)


class Match(NamedTuple):
    """Text `row` of those searched holds n-grams of evaluation text `held`; `score` is the share of that text's n-grams."""

    row: int
    held: int
    n: int
    score: float


@dataclass(frozen=True)
class NGrams:
    """The n-grams of evaluation texts, sorted by hash. `owner` is the text of each; `sizes` (texts,) how many different ones each text has, templates left out;
    `common` n-grams were templates."""

    n: int
    hashes: NDArray[np.uint64]
    owner: NDArray[np.int64]
    sizes: NDArray[np.int64]
    common: int

    @staticmethod
    def of(texts: Ragged, n: int, *, least: int = 0, below: int | None = None) -> NGrams:
        """From the words of each text; texts of fewer than `least` words, or of `below` or more, are left out."""
        hashes, owner, first = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], 0
        for flat, lengths in texts.parts():
            made, of = ngrams(flat, lengths, n)
            fits = (lengths[of] >= least) & (lengths[of] < below if below is not None else True)
            hashes.append(made[fits])
            owner.append(of[fits] + first)
            first += len(lengths)
        grams, texts_of = np.concatenate(hashes), np.concatenate(owner)
        order = np.lexsort((texts_of, grams))
        grams, texts_of = grams[order], texts_of[order]
        fresh = np.ones(len(grams), bool)
        fresh[1:] = (grams[1:] != grams[:-1]) | (texts_of[1:] != texts_of[:-1])
        grams, texts_of = grams[fresh], texts_of[fresh]
        edges = np.flatnonzero(np.concatenate(([True], grams[1:] != grams[:-1], [True]))) if len(grams) else np.zeros(1, np.int64)
        common = np.diff(edges) > COMMON
        rare = ~np.repeat(common, np.diff(edges))
        grams, texts_of = grams[rare], texts_of[rare]
        return NGrams(n, grams, texts_of, np.bincount(texts_of, minlength=first), int(common.sum()))

    @cached_property
    def _marked(self) -> NDArray[np.bool_]:
        """Which lowest 24 bits some hash has."""
        marked = np.zeros(1 << 24, bool)
        marked[self.hashes & _LOWEST] = True
        return marked

    @staticmethod
    def long_and_short(texts: Ragged) -> tuple[NGrams, NGrams]:
        """13-grams of the texts of 26 words or more, 5-grams of the shorter ones with at least three."""
        return NGrams.of(texts, LONG, least=LONG_TEXT), NGrams.of(texts, SHORT, least=SHORT + LEAST - 1, below=LONG_TEXT)

    def held(self, made: NDArray[np.uint64], row: NDArray[np.int64], least: float) -> Iterator[Match]:
        """For each row that the n-grams `made` are of, the evaluation text it holds most of, where that is at least the share `least` (0: one n-gram)."""
        maybe = self._marked[made & _LOWEST]  # nearly all end here, without a search
        made, row = made[maybe], row[maybe]
        begin = np.searchsorted(self.hashes, made)
        reps = np.searchsorted(self.hashes, made, "right") - begin
        if reps.any():
            at = np.repeat(begin - (np.cumsum(reps) - reps), reps) + np.arange(reps.sum())
            held = np.unique(np.stack([np.repeat(row, reps), self.owner[at], at], axis=1), axis=0)  # an n-gram that a text says twice counts once
            pairs, counts = np.unique(held[:, :2], axis=0, return_counts=True)
            share = counts / self.sizes[pairs[:, 1]]
            order = np.lexsort((pairs[:, 1], -share, pairs[:, 0]))
            best = order[np.concatenate(([True], np.diff(pairs[order, 0]) != 0))]
            for index in best[share[best] >= least]:
                yield Match(int(pairs[index, 0]), int(pairs[index, 1]), self.n, float(share[index]))


def matches(kinds: Sequence[NGrams], texts: Ragged, least: float) -> Iterator[tuple[int, Match]]:
    """What each text holds most of, as `NGrams.held` gives it, with the place in `kinds` of the n-grams it holds; these are of one length."""
    wanted = [place for place, grams in enumerate(kinds) if len(grams.hashes)]
    before = 0
    for flat, lengths in texts.parts() if wanted else ():
        made, row = ngrams(flat, lengths, kinds[wanted[0]].n)
        for place in wanted:
            yield from ((place, match._replace(row=match.row + before)) for match in kinds[place].held(made, row, least))
        before += len(lengths)
