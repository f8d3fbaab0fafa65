"""Sets of token ids in few bits: a tree over the ids, like ones beside each other, and at each node how many of a set lie to its left.

A set of n of V ids says log2 C(V, n) bits where nothing is known. Known here are how often each id is seen, and that ids of one kind come together: the number to the left of
a node is beta-binomial, with the node's own spread. Each position also brings two words that are known beforehand, its own token and the one before; a node has another
distribution where one of them lies below it. A set has no order, and none is paid for.
Sources: binary interpolative coding, Moffat and Stuiver 2000; ids by the company they keep: singular vectors of the matrix of positions and ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from planish.data.beta_binomial import SHARES, SPREADS, fitted, split
from planish.data.rans import BITS, Coder, Ints

WIDTH, ROUNDS = 32, 4
"""Numbers that describe with whom an id is seen, and rounds of the power iteration."""
SEEN, DEEPEST = 4, 8
"""An id that is seen less often has no kind; there are at most 2**8 kinds, and 32 positions for each."""
SIDES = 9
"""For each of two words: not below this node, left, right."""
_NEAREST = np.abs((np.arange(64) + 0.5)[:, None] / 64 - SHARES).argmin(1)
_ALONE = (len(SPREADS) - 1) * len(SHARES)


@dataclass(frozen=True)
class Tree:
    """V ids. ids: (V,) by place; place: (V,) of each in rising order of ids; sums: (V + 1,) running sums of how often each is seen, 2**BITS in all; starts: (G + 1,) first place
    of each of G kinds, the last that of the ids without a kind; rows: (G, SIDES) of the table of beta_binomial. Node 0 parts the kinds from the rest, node h > 0 is that of a heap
    over the kinds; below them a set is halved with each id for itself."""

    ids: Ints
    place: Ints
    sums: Ints
    starts: Ints
    rows: Ints

    @classmethod
    def of(cls, ids: Ints, weights: Ints, kinds: Ints, rows: Ints) -> Self:
        """ids: rising, with the weight and the kind of each, G = len(rows) where it has none."""
        order = np.argsort(kinds, kind="stable")
        sums = np.concatenate([[0], np.cumsum(weights[order])])
        sums = sums * (2**BITS - len(ids)) // max(1, int(sums[-1])) + np.arange(len(ids) + 1)  # no id without a width
        return cls(ids[order], np.argsort(order), sums, np.searchsorted(kinds[order], np.arange(len(rows) + 1)), rows)

    def code(self, coder: Coder, counts: Ints, known: Ints, given: Ints) -> Ints:
        """N sets of `counts` ids each; known: (N, 2) places of the words, or -1. given: (sum,) places, rising in each set, of any value for a reader. Gives them."""
        size, G = len(self.ids), len(self.rows)
        key = np.repeat(np.arange(len(counts)), counts) * size + given
        owner = np.flatnonzero(counts)
        node, n, low, high = np.zeros_like(owner), counts[owner], np.zeros_like(owner), np.full(len(owner), size)
        places, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        while len(owner):
            whole = n == high - low
            one = (n == 1) & (node >= G) & ~whole
            if one.any():
                wanted = given[np.searchsorted(key, owner[one] * size + low[one]).clip(max=len(given) - 1)]
                places.append(coder.pick(self.sums, low[one], high[one], wanted))
            places.append(np.repeat(low[whole], n[whole]) + _within(n[whole]))
            owners += [owner[one], np.repeat(owner[whole], n[whole])]
            owner, node, n, low, high = (values[~one & ~whole] for values in (owner, node, n, low, high))
            middle, rows = self._cut(node, low, high, known[owner])
            wanted = np.searchsorted(key, owner * size + middle) - np.searchsorted(key, owner * size + low)
            left = split(coder, rows, n, np.maximum(0, n - (high - middle)), np.minimum(n, middle - low), wanted)
            first, second = left > 0, left < n
            heap = (node > 0) & (node < G)
            below, beside = np.where(heap, 2 * node, np.maximum(node, 1)), np.where(heap, 2 * node + 1, np.where(node == 0, 2 * G, node))
            owner, node = np.concatenate([owner[first], owner[second]]), np.concatenate([below[first], beside[second]])
            low, high = np.concatenate([low[first], middle[second]]), np.concatenate([middle[first], high[second]])
            n = np.concatenate([left[first], (n - left)[second]])
        return (found := np.concatenate(places))[np.lexsort((found, np.concatenate(owners)))]

    def _cut(self, node: Ints, low: Ints, high: Ints, known: Ints) -> tuple[Ints, Ints]:
        """Where each range is cut, and the row of the table of its left side."""
        inner = node < len(self.rows)
        half = np.searchsorted(self.sums, (self.sums[low] + self.sums[high]) // 2)
        middle = np.where(inner, cuts(self.starts)[np.where(inner, node, 0)], half.clip(low + 1, high - 1))
        share = ((self.sums[middle] - self.sums[low]) << 6) // (self.sums[high] - self.sums[low])
        rows = _ALONE + _NEAREST[share.clip(max=63)]
        rows[inner] = self.rows[node[inner], _sides(known[inner], low[inner], middle[inner], high[inner])]
        return middle, rows


def cuts(starts: Ints) -> Ints:
    """(G,) the place at which each node is cut."""
    below = [_kinds_below(h, len(starts) - 1) for h in range(1, len(starts) - 1)]
    return np.array([starts[-1], *(starts[low + wide // 2] for low, wide in below)], np.int64)


def _kinds_below(h: int, G: int) -> tuple[int, int]:
    """The first kind below a node of the heap, and how many there are."""
    depth = h.bit_length() - 1
    return (h - (1 << depth)) * (G >> depth), G >> depth


def _within(counts: Ints) -> Ints:
    """0, 1, .. of each."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _sides(known: Ints, low: Ints, middle: Ints, high: Ints) -> Ints:
    """(N,) below SIDES: where the two words lie."""
    here = (known >= low[:, None]) & (known < high[:, None])
    side = np.where(here, 1 + (known >= middle[:, None]), 0)
    return side[:, 0] * 3 + side[:, 1]


def fit_rows(tree: Tree, counts: Ints, sets: Ints, known: Ints) -> Ints:
    """(G, SIDES) rows that say best how these sets fall; sets: places, rising in each."""
    N, G, size = len(counts), len(tree.rows), len(tree.ids)
    key, everyone, rows = np.repeat(np.arange(N), counts) * size + sets, np.arange(N) * size, np.zeros((G, SIDES), np.int64)
    for h, middle in enumerate(cuts(tree.starts).tolist()):
        first, wide = _kinds_below(h, G) if h else (0, G)
        low, high = (int(tree.starts[first]), int(tree.starts[first + wide])) if h else (0, size)
        at_low, at_middle, at_high = (np.searchsorted(key, everyone + edge) for edge in (low, middle, high))
        edges = (np.full(N, edge) for edge in (low, middle, high))
        rows[h] = fitted(at_middle - at_low, at_high - at_low, _sides(known, *edges), SIDES)
    return rows


def kinds_of(size: int, counts: Ints, sets: Ints) -> tuple[Ints, int]:
    """(size,) the kind of each id and the number G of kinds, which stands for none: halves of halves of equal weight, each cut across its longest extent."""
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    weight = np.bincount(sets, minlength=size).astype(np.float64)
    common = np.flatnonzero(weight >= SEEN)
    depth = int(np.clip(np.log2(max(1, len(counts)) / 32), 0, DEEPEST)) if len(common) > WIDTH else 0
    kind, parts = np.full(size, 1 << depth), [common]
    if depth:
        owner = np.repeat(np.arange(len(counts)), counts)
        seen = (1 / np.sqrt(counts[owner]) / np.sqrt(weight[sets] + 5)).astype(np.float32)
        matrix = csr_matrix((seen, (owner, sets)), shape=(len(counts), size))
        found = np.random.default_rng(0).normal(size=(size, WIDTH)).astype(np.float32)
        for _ in range(ROUNDS):
            found = np.linalg.qr(matrix.T @ (matrix @ found))[0]
        found = (matrix.T @ (matrix @ found)) / np.sqrt(np.maximum(weight, 1))[:, None]
        found -= (found * weight[:, None]).sum(0) / weight.sum()
        found /= np.linalg.norm(found, axis=1, keepdims=True) + 1e-9
        for _ in range(depth):
            parts = [half for part in parts for half in _halves(part, found, weight)]
    for number, part in enumerate(parts):
        kind[part] = number
    return kind, 1 << depth


def _halves(part: Ints, found: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[Ints, Ints]:
    if len(part) < 2:
        return part, part[:0]
    own, heavy = found[part], weight[part]
    centred = own - np.average(own, axis=0, weights=heavy)
    longest = np.linalg.eigh((centred * heavy[:, None]).T @ centred)[1][:, -1]
    order = part[np.argsort(centred @ longest, kind="stable")]
    at = int(np.clip(np.searchsorted(np.cumsum(weight[order]), heavy.sum() / 2) + 1, 1, len(order) - 1))
    return order[:at], order[at:]
