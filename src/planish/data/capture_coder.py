"""The positions of a capture in few bits: what was learned of a whole file, and a block of its rows written or read with that.

A position is its own token, how many tokens are kept of it, which ones as a set, at which level the logarithm of each lies, and what is left at each temperature. Order is
not kept: tokens of one level are alike. Of a level the highest COARSE bits are learned, the finer ones stand as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from planish.data.beta_binomial import fitted, split, uniform
from planish.data.rans import Coder, Ints
from planish.data.token_sets import Tree

COARSE, COARSE_TAILS, SIZES = 5, 9, 18
"""Bits that are learned of a level and of a rest; classes of counts, by their bits."""
MOST_SEEN = 1023
"""In a learned table; nothing seen has a sixteenth of what was seen once."""


@dataclass(frozen=True)
class Positions:
    """N positions. words: (N,) places in the tree, before: (N,) that of the token before or -1; counts: (N,); sets: (sum,) places, rising in each; levels: (sum,); tails:
    (M, T) of the M positions with counts > 0, whole numbers from 0."""

    words: Ints
    before: Ints
    counts: Ints
    sets: Ints
    levels: Ints
    tails: Ints

    @property
    def owner(self) -> Ints:
        """(sum,) the position of each kept token."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def known(self) -> Ints:
        """(N, 2) words known before a set is read."""
        return np.stack([self.words, self.before], 1)

    @property
    def own(self) -> NDArray[np.bool_]:
        """(sum,) kept tokens that are the position's own."""
        return np.equal(self.sets, self.words[self.owner])

    def others(self) -> tuple[Ints, Ints]:
        """Counts and sets without the own tokens."""
        own = self.own
        return self.counts - np.bincount(self.owner[own], minlength=len(self.counts)), self.sets[~own]


@dataclass(frozen=True)
class Learned:
    """fine: (2,) bits that stand as they are, of a level and of a rest. counts: (1, C). held: (SIZES,) rows of beta_binomial, whether the own token is kept, by the count's
    size. first: (SIZES, J) the level of the likeliest. at_level: (J, J) rows, how many of those left lie at a level, by the level of the likeliest. own: (J,) how much oftener
    than others the own token lies so many levels below the likeliest. tails: (T SIZES, S) by the size, then by the rest before."""

    fine: Ints
    counts: Ints
    held: Ints
    first: Ints
    at_level: Ints
    own: Ints
    tails: Ints

    def arrays(self) -> dict[str, Ints]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, seen: Positions, largest: tuple[int, int, int]) -> Self:
        """From some of the positions; largest: the largest count, level and rest of all of them."""
        most, lowest, widest = largest
        fine = np.array([max(0, lowest.bit_length() - COARSE), max(0, widest.bit_length() - COARSE_TAILS)])
        J, S = (lowest >> int(fine[0])) + 1, (widest >> int(fine[1])) + 1
        spoken = seen.counts > 0
        counts, levels = seen.counts[spoken], seen.levels >> fine[0]
        hist = _histogram(counts, levels, J)
        first, rest = (hist > 0).argmax(1), counts.copy()
        group, k, n = list[Ints](), list[Ints](), list[Ints]()
        for level in range(J):
            at = first == level
            group.append(first * J + level)
            k.append(hist[:, level] - at)
            n.append(rest - at)
            rest = rest - hist[:, level]
        n = [np.where(first <= level, left, 0) for level, left in enumerate(n)]
        held = (counts - seen.others()[0][spoken]) > 0
        below = levels - np.repeat(first, counts)
        own, usual = (np.bincount(below[which], minlength=J)[:J] + 0.5 for which in (seen.own, np.ones(len(below), bool)))
        gain = np.clip(np.rint(16 * own / usual / (own.sum() / usual.sum())), 1, 255).astype(np.int64)
        tails = seen.tails >> fine[1]
        rows = _tail_rows(counts, tails, S)
        return cls(
            fine,
            _tallied(np.zeros(len(seen.counts), np.int64), seen.counts, 1, most + 1),
            fitted(held.astype(np.int64), np.ones(len(counts), np.int64), _size(counts), SIZES),
            _tallied(_size(counts), first, SIZES, J),
            fitted(np.concatenate(k), np.concatenate(n), np.concatenate(group), J * J).reshape(J, J),
            gain,
            _tallied(rows.ravel(), tails.ravel(), tails.shape[1] * SIZES, S),
        )


def code(coder: Coder, tree: Tree, learned: Learned, begins: NDArray[np.bool_], given: Positions | None) -> Positions:
    """Writes `given`, or reads what was written. begins: (N,) positions that are the first of a row. Gives the positions."""
    N, none = len(begins), np.zeros(0, np.int64)
    words = coder.pick(tree.sums, np.zeros(N, np.int64), np.full(N, len(tree.ids)), given.words if given else np.zeros(N, np.int64))
    before = np.where(begins, -1, np.concatenate([none, [-1], words])[:N])
    counts = _of_table(coder, learned.counts, np.zeros(N, np.int64), given.counts if given else np.zeros(N, np.int64))
    spoken = counts > 0
    fewer, others = given.others() if given else (counts, np.zeros(int(counts.sum()), np.int64))
    one = np.ones(int(spoken.sum()), np.int64)
    held = np.zeros(N, np.int64)
    held[spoken] = split(coder, learned.held[_size(counts[spoken])], one, 0 * one, one, (counts - fewer)[spoken])
    others = tree.code(coder, counts - held, np.stack([words, before], 1), others[: int((counts - held).sum())])
    places = np.concatenate([others, words[held > 0]])
    owner = np.concatenate([np.repeat(np.arange(N), counts - held), np.flatnonzero(held)])
    sets = places[np.lexsort((places, owner))]
    own = sets == np.repeat(words, counts)
    levels = _levels(coder, learned, counts[spoken], own, given.levels if given else np.zeros(len(sets), np.int64))
    tails = _tails(coder, learned, counts[spoken], given.tails if given else None)
    return Positions(words, before, counts, sets, levels, tails)


def _levels(coder: Coder, learned: Learned, counts: Ints, own: NDArray[np.bool_], given: Ints) -> Ints:
    """How many lie at each level, then which: the own token before the others."""
    fine, J = int(learned.fine[0]), len(learned.own)
    coarse = given >> fine
    wanted = _histogram(counts, coarse, J)
    first = _of_table(coder, learned.first, _size(counts), (wanted > 0).argmax(1))
    hist, rest = np.zeros_like(wanted), counts.copy()
    for level in range(J):
        live = np.flatnonzero((first <= level) & (rest > 0))
        at = (first[live] == level).astype(np.int64)
        n = rest[live] - at
        left = n if level == J - 1 else split(coder, learned.at_level[first[live], level], n, 0 * n, n, wanted[live, level] - at)
        hist[live, level] = left + at
        rest[live] -= left + at
    owner = np.repeat(np.arange(len(counts)), counts)
    order, starts, found = np.lexsort((~own, owner)), np.cumsum(counts) - counts, np.zeros(len(given), np.int64)
    gain = learned.own[np.maximum(np.arange(J) - np.arange(J)[:, None], 0)]
    for step in range(int(counts.max(initial=0))):
        live = np.flatnonzero(counts > step)
        entry = order[starts[live] + step]
        weights = hist[live] * np.where(own[entry][:, None], gain[first[live]], 1)
        found[entry] = _of_sums(coder, _running(weights), J, np.arange(len(live)), coarse[entry])
        hist[live, found[entry]] -= 1
    if fine:
        found = (found << fine) + uniform(coder, np.full(len(given), 1 << fine), given & ((1 << fine) - 1))
    return found


def _tails(coder: Coder, learned: Learned, counts: Ints, given: Ints | None) -> Ints:
    fine, (rows, size) = int(learned.fine[1]), learned.tails.shape
    found = np.zeros((len(counts), rows // SIZES), np.int64)
    for T in range(found.shape[1]):
        own = given[:, T] if given is not None else found[:, T]
        row = _tail_rows(counts, found >> fine, size)[:, T]
        found[:, T] = _of_table(coder, learned.tails, row, own >> fine) << fine
        if fine:
            found[:, T] += uniform(coder, np.full(len(counts), 1 << fine), own & ((1 << fine) - 1))
    return found


def _tail_rows(counts: Ints, tails: Ints, size: int) -> Ints:
    """(M, T) the row of each rest: at the first temperature by the count, at others by the rest before."""
    row = np.concatenate([_size(counts)[:, None], tails[:, :-1] * SIZES // size], 1)
    return row + np.arange(tails.shape[1]) * SIZES


def _histogram(counts: Ints, levels: Ints, J: int) -> Ints:
    owner = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(owner * J + levels, minlength=len(counts) * J).reshape(len(counts), J)


def _size(counts: Ints) -> Ints:
    """The bits of each."""
    return np.searchsorted(1 << np.arange(SIZES - 1), counts, "right")


def _tallied(row: Ints, value: Ints, rows: int, width: int) -> Ints:
    """(rows, width) how often, at most MOST_SEEN."""
    found = np.bincount(row * width + value, minlength=rows * width).reshape(rows, width)
    most = np.maximum(found.max(1, keepdims=True), 1)
    return np.where(most > MOST_SEEN, np.maximum(found * MOST_SEEN // most, found > 0), found)


def _running(weights: Ints) -> Ints:
    """Flat running sums over rows of weights: place row (S + 1) + s."""
    sums = np.concatenate([np.zeros((len(weights), 1), np.int64), np.cumsum(weights, 1)], 1)
    return np.asarray(sums + (np.cumsum(sums[:, -1]) - sums[:, -1])[:, None]).ravel()


def _of_sums(coder: Coder, sums: Ints, size: int, row: Ints, given: Ints) -> Ints:
    base = row * (size + 1)
    return coder.pick(sums, base, base + size, base + given) - base


def _of_table(coder: Coder, table: Ints, row: Ints, given: Ints) -> Ints:
    return _of_sums(coder, _running(table * 16 + 1), table.shape[1], row, given)
