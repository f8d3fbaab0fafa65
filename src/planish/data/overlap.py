"""Which texts hold word n-grams of others: contamination by what was copied, in one pass (MISSION D9).

An n-gram of an evaluation text that a training text holds is a match when the text is long; a short text must be held almost whole, because five words in a
row are often a mere turn of phrase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.parallel import map_threads
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

COMMON_SHARE = 0.001
"""So is one that several evaluation texts share, when more than 10 texts of all, and more than this share of them, hold it: the rest of its texts are in training."""

OWN = 5
"""A shared run of 13 words says nothing that has fewer words than this outside of a template, unless these are all that its text has outside."""

_LOWEST = np.uint64(0xFFFFFF)


Same = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""Of evaluation texts and the rows that are like them, (_P,) and (_P,): which pairs ask the same, (_P,)."""


class Match(NamedTuple):
    """Text `row` of those searched holds n-grams of evaluation text `held`; `score` is the share of that text's n-grams."""

    row: int
    held: int
    n: int
    score: float


@dataclass(frozen=True)
class NGrams:
    """The n-grams of evaluation texts, sorted by hash, templates left out. `owner` is the text of each, `place` the word of it at which it begins; `sizes` (texts,)
    how many different ones each text has; `templates` the owner and place (owner << 32 | place) of those left out, which are `common` different ones."""

    n: int
    hashes: NDArray[np.uint64]
    owner: NDArray[np.int64]
    place: NDArray[np.int64]
    sizes: NDArray[np.int64]
    templates: NDArray[np.int64]
    common: int

    @staticmethod
    def of(texts: Ragged, n: int, *, least: int = 0, below: int | None = None) -> NGrams:
        """From the words of each text; texts of fewer than `least` words, or of `below` or more, are left out."""
        hashes, owner, place, first = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for flat, lengths in texts.parts():
            made, of = ngrams(flat, lengths, n)
            fits = (lengths[of] >= least) & (lengths[of] < below if below is not None else True)
            hashes.append(made[fits])
            owner.append(of[fits] + first)
            place.append((np.arange(len(of)) - np.searchsorted(of, of))[fits])
            first += len(lengths)
        grams, texts_of, places = np.concatenate(hashes), np.concatenate(owner), np.concatenate(place)
        order = np.lexsort((texts_of, grams))
        grams, texts_of, places = grams[order], texts_of[order], places[order]
        fresh = np.ones(len(grams), bool)
        fresh[1:] = (grams[1:] != grams[:-1]) | (texts_of[1:] != texts_of[:-1])
        grams, texts_of, places = grams[fresh], texts_of[fresh], places[fresh]
        edges = np.flatnonzero(np.concatenate(([True], grams[1:] != grams[:-1], [True]))) if len(grams) else np.zeros(1, np.int64)
        common = np.diff(edges) > COMMON
        rare = ~np.repeat(common, np.diff(edges))
        templates = texts_of[~rare] << 32 | places[~rare]
        grams, texts_of, places = grams[rare], texts_of[rare], places[rare]
        return NGrams(n, grams, texts_of, places, np.bincount(texts_of, minlength=first), templates, int(common.sum()))

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

    def hits(self, made: NDArray[np.uint64], row: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Which rows, that the n-grams `made` are of, hold which of these n-grams: (_P,) rows, (_P,) the first place of the n-gram in `hashes`; each pair once."""
        maybe = self._marked[made & _LOWEST]  # nearly all end here, without a search
        made, row = made[maybe], row[maybe]
        at = np.searchsorted(self.hashes, made)
        there = np.flatnonzero(self.hashes[at.clip(max=len(self.hashes) - 1)] == made)
        pairs = distinct((row[there] << 32) | at[there])  # an n-gram that a text says twice counts once
        return (pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32)

    def held(self, rows: NDArray[np.int32], at: NDArray[np.int32], among: int, least: float, same: Same | None = None) -> Iterator[Match]:
        """For each row of the `hits`, the evaluation text it holds most of, where that is at least the share `least` (0: one n-gram). `among` is how many rows were
        searched. Few words prove nothing by themselves: then `same` (if given) must say that both ask the same. A run of 13 words proves it."""
        grams, counts = np.unique(at, return_counts=True)
        owners = np.searchsorted(self.hashes, self.hashes[grams], "right") - grams
        template = (owners > 1) & (owners + counts > max(COMMON, COMMON_SHARE * (among + len(self.sizes))))
        gone = np.repeat(grams[template], owners[template]) + _running(owners[template])
        sizes = self.sizes - np.bincount(self.owner[gone], minlength=len(self.sizes))
        which = np.searchsorted(grams, at)
        rows, at, reps = rows[~template[which]], at[~template[which]], owners[which][~template[which]]
        if not len(rows):
            return
        every = np.repeat(at, reps).astype(np.int64) + _running(reps)
        codes, which, counts = np.unique((np.repeat(rows, reps).astype(np.int64) << 32) | self.owner[every], return_inverse=True, return_counts=True)
        row, text = codes >> 32, codes & 0xFFFFFFFF
        share = counts / sizes[text]
        kept, sure = share >= least, np.zeros(len(share), bool)
        if self.n > OWN:
            says = self._apart(every, np.concatenate([self.templates, self.owner[gone] << 32 | self.place[gone]]))
            sure = np.bincount(which[says], minlength=len(codes)) > 0
            kept &= sure | (share == 1)
        if same is not None:
            asked = np.flatnonzero(kept & ~sure)
            kept[asked] = same(text[asked], row[asked])
        row, text, share = row[kept], text[kept], share[kept]
        order = np.lexsort((text, -share, row))
        for index in order[np.concatenate(([True], np.diff(row[order]) != 0))] if len(order) else ():
            yield Match(int(row[index]), int(text[index]), self.n, float(share[index]))

    def _apart(self, at: NDArray[np.int64], templates: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the n-grams at these places in `hashes` have 5 words at least outside of every template of their text."""
        ends = np.sort(np.concatenate([templates, [-(1 << 40), 1 << 62]]))
        here = self.owner[at] << 32 | self.place[at]
        after = np.searchsorted(ends, here)
        return np.asarray((ends[after] - here >= OWN) & (here - ends[after - 1] >= OWN))


def matches(kinds: Sequence[NGrams], texts: Ragged, least: float, same: Sequence[Same | None] | None = None) -> Iterator[tuple[int, Match]]:
    """What each text holds most of, as `NGrams.held` gives it, with the place in `kinds` of the n-grams it holds; these are of one length. `same` is for each kind."""
    wanted = [place for place, grams in enumerate(kinds) if len(grams.hashes)]
    found: dict[int, list[tuple[NDArray[np.int32], NDArray[np.int32]]]] = {place: [] for place in wanted}
    before = 0
    for of_each, count in map_threads(partial(_hits, [kinds[place] for place in wanted]), texts.parts()) if wanted else ():
        for place, (rows, at) in zip(wanted, of_each, strict=True):
            found[place].append((rows + np.int32(before), at))
        before += count
    for place, hits in found.items():
        rows, at = (np.concatenate([np.zeros(0, np.int32), *parts]) for parts in zip(*hits, strict=True)) if hits else (np.zeros(0, np.int32),) * 2
        yield from ((place, match) for match in kinds[place].held(rows, at, len(texts), least, same[place] if same is not None else None))


def _hits(kinds: Sequence[NGrams], part: tuple[NDArray[np.uint32], NDArray[np.int64]]) -> tuple[list[tuple[NDArray[np.int32], NDArray[np.int32]]], int]:
    """The hits of each kind among some texts, which are given as the words of all and how many each has; and how many texts these are."""
    flat, lengths = part
    made, row = ngrams(flat, lengths, kinds[0].n)
    return [grams.hits(made, row) for grams in kinds], len(lengths)


def distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value once, in order: numpy's own `unique` hashes, and takes far longer on codes like these."""
    ordered = np.sort(values)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if len(ordered) else ordered


def _running(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .. lengths[0] - 1, 0, 1, .. lengths[1] - 1, and so on."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
