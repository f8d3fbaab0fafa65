"""MinHash with banding: the rows that are near-duplicates of each other, without comparing all with all (MISSION D6).

Signatures are rensa's. _N rows, _P pairs, as in `shingles` and `similar`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash  # type: ignore[import-untyped]

from planish.data.shingles import Shingles
from planish.data.similar import Pairs, across, confirmed, prefix_pairs, reachable, within

PERMUTATIONS, BANDS, ROWS = 128, 32, 4
"""Hash functions of a signature; it is cut into 32 bands of 4, and two rows that agree in a whole band are compared."""

CROWD = 64
"""A bucket with more rows than this comes from text that many rows share; its pairs are found by their rare shingles instead."""

MAX_PAIRS = 30_000_000
"""Pairs looked at before the rest is left, and counted as left: some 20 seconds' work."""

_SEED = 42
_AGREE = 0.66  # of 128 hashes; rows of Jaccard .8 agree in fewer with a probability of 4e-5
_AT_ONCE = 8192
_SIGNED = 128  # rensa gives lists of numbers: of so few rows they stay in the processor's cache, in half the time


def proposed(similarity: float, *, bands: int = BANDS, rows: int = ROWS) -> float:
    """Probability that a pair of this Jaccard agrees in at least one band, and so is compared: 1 - (1 - J^r)^b."""
    return float(1 - (1 - similarity**rows) ** bands)


@dataclass(frozen=True)
class Links:
    """Pairs (_P,) that reach the threshold, left before right, with their Jaccard; enough of them to connect every cluster. `compared` pairs were looked at;
    `left_out` were not, because there were too many."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    jaccard: NDArray[np.float64]
    compared: int = 0
    left_out: int = 0


def signatures(sets: Shingles) -> NDArray[np.uint32]:
    """(_N, 128) MinHash signatures."""
    made = np.empty((len(sets), PERMUTATIONS), np.uint32)
    for begin in range(0, len(sets), _SIGNED):
        starts = sets.starts[begin : begin + _SIGNED + 1]
        flat = sets.values[starts[0] : starts[-1]].astype(np.uint64)
        rows = RMinHash.digest_matrix_from_flat_token_hashes(flat, (starts - starts[0]).astype(np.uint64), PERMUTATIONS, _SEED).to_rows()
        made[begin : begin + len(rows)] = np.frombuffer(b"".join([array("I", row).tobytes() for row in rows]), np.uint32).reshape(-1, PERMUTATIONS)
    return made


def links(sets: Shingles, threshold: float, accept: Callable[[Pairs], NDArray[np.bool_]] | None = None, *, max_pairs: int = MAX_PAIRS) -> Links:
    """What connects rows whose Jaccard is at least `threshold` and which `accept` (if given) takes for the same.

    Each row of a bucket is compared with the bucket's first; then the rows of one bucket that are still in different clusters with each other. So a
    thousand copies cost a thousand comparisons, and every pair that MinHash proposes is decided by its exact Jaccard or already connected.
    """
    search = _Search(sets, threshold, accept, max_pairs)
    if not len(search.rows):
        return search.links()
    for _, order, starts, ends in search.buckets():
        search.look(np.repeat(order[starts], ends - starts - 1), order[_behind_first(starts, ends)])
    search.connect()
    crowded = np.zeros(len(sets), bool)
    for band, order, starts, ends in search.buckets():
        mixed = search.mixed(order, starts, ends)
        crowd = mixed & (ends - starts > CROWD)
        for begin, end in zip(starts[crowd], ends[crowd], strict=True):
            crowded[order[begin:end]] = True
        few = mixed & ~crowd
        search.look_apart(within(order, starts[few], ends[few]), band)
    search.look_apart(prefix_pairs(sets, np.flatnonzero(crowded), threshold))
    return search.links()


def crossing(sets: Shingles, ours: NDArray[np.int64], theirs: NDArray[np.int64], threshold: float, *, max_pairs: int = MAX_PAIRS) -> Links:
    """Every pair of a row of `ours` with one of `theirs` that MinHash proposes and whose Jaccard is at least `threshold`."""
    search = _Search(sets, threshold, None, max_pairs)
    both = np.concatenate([ours, theirs])
    for band in range(BANDS if len(ours) and len(theirs) else 0):
        keys = search.keys[both, band]
        order = np.lexsort((np.arange(len(both)) >= len(ours), keys))
        keys = keys[order]
        edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True])))
        split = edges[:-1] + np.add.reduceat((order < len(ours)).astype(np.int64), edges[:-1])
        for left, right in across(both[order], edges[:-1], split, edges[1:]):
            if search.compared >= max_pairs:
                search.left_out += len(left)
                continue
            fresh = ~(search.keys[left, :band] == search.keys[right, :band]).any(axis=1)
            search.look(left[fresh], right[fresh])
    codes = np.concatenate([np.zeros(0, np.int64), *search.waiting])
    return Links(*confirmed(sets, codes // len(sets), codes % len(sets), threshold), search.compared, search.left_out)


class _Search:
    """The pairs found so far, and the cluster each row is in by them."""

    def __init__(self, sets: Shingles, threshold: float, accept: Callable[[Pairs], NDArray[np.bool_]] | None, max_pairs: int) -> None:
        self.sets, self.threshold, self.accept, self.max_pairs = sets, threshold, accept, max_pairs
        self.rows = np.flatnonzero(sets.sizes)
        signed = signatures(sets)
        self.sketch = signed.astype(np.uint8)  # the lowest byte of each hash: agreement by chance 1 of 256
        self.keys = _band_keys(signed)
        self.cluster = np.arange(len(sets))
        self.found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self.waiting: list[NDArray[np.int64]] = []
        self.compared = self.left_out = 0

    def buckets(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Band by band its number, the rows in order of their key, and where each bucket of two rows or more begins and ends. Within a bucket rows keep their order."""
        for band in range(BANDS):
            keys = self.keys[self.rows, band]
            by_key = np.argsort(keys, kind="stable")
            ordered = keys[by_key]
            edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
            starts, ends = edges[:-1], edges[1:]
            full = ends - starts > 1
            yield band, self.rows[by_key], starts[full], ends[full]

    def mixed(self, order: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a bucket holds rows of several clusters."""
        if not len(starts):
            return np.zeros(0, bool)
        flat = np.repeat(starts, ends - starts) + np.arange((ends - starts).sum()) - np.repeat(np.cumsum(ends - starts) - (ends - starts), ends - starts)
        inner = np.cumsum(ends - starts) - (ends - starts)
        clusters = self.cluster[order[flat]]
        return np.asarray(np.minimum.reduceat(clusters, inner) != np.maximum.reduceat(clusters, inner))

    def look(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Note pairs that sizes and signatures leave possible; `connect` compares them."""
        self.compared += len(left)
        likely = self._likely(left, right)
        self.waiting.append(left[likely] * len(self.sets) + right[likely])

    def look_apart(self, batches: Iterable[Pairs], band: int = 0) -> None:
        """Compare pairs whose rows are in different clusters and agree in none of the bands before `band`, until the budget is spent."""
        for left, right in batches:
            if self.compared >= self.max_pairs:
                self.left_out += len(left)
                continue
            apart = self.cluster[left] != self.cluster[right]
            left, right = left[apart], right[apart]
            fresh = ~(self.keys[left, :band] == self.keys[right, :band]).any(axis=1)
            self.look(left[fresh], right[fresh])
            if sum(map(len, self.waiting)) > 300_000:
                self.connect()
        self.connect()

    def connect(self) -> None:
        """Compare what waits, each pair once, and join the clusters."""
        codes = np.concatenate([np.zeros(0, np.int64), *self.waiting])
        self.waiting = []
        left, right, exact = confirmed(self.sets, codes // len(self.sets), codes % len(self.sets), self.threshold)
        same = self.accept((left, right)) if self.accept is not None else np.ones(len(left), bool)
        if same.any():
            self.found.append((left[same], right[same], exact[same]))
            self.cluster = components(len(self.sets), [(pairs[0], pairs[1]) for pairs in self.found])

    def _likely(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether sizes and signatures leave the threshold possible; the exact comparison decides."""
        kept = reachable(self.sets, (left, right), self.threshold)
        least = int(_AGREE / 0.8 * self.threshold * PERMUTATIONS)
        for begin in range(0, len(left), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            kept[part] &= (self.sketch[left[part]] == self.sketch[right[part]]).sum(axis=1) >= least
        return kept

    def links(self) -> Links:
        """Everything found."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        left, right, exact = (np.concatenate(parts) for parts in zip(empty, *self.found, strict=True))
        return Links(left, right, exact, self.compared, self.left_out)


def components(n: int, pairs: list[Pairs]) -> NDArray[np.int64]:
    """The cluster of each of `n` rows, numbered by its first row: (_N,)."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    left, right = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, first = np.unique(labels, return_index=True)
    return np.asarray(first[labels], np.int64)


def _band_keys(signed: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(_N, 32): the four hashes of each band as one number. Two different bands share one by chance once in 4e9, which costs a comparison."""
    grouped = signed.reshape(len(signed), BANDS, ROWS)
    keys = np.zeros((len(signed), BANDS), np.uint64)
    for row in range(ROWS):
        keys = (keys ^ grouped[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return (keys >> np.uint64(32)).astype(np.uint32)


def _behind_first(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of every member of each bucket but its first."""
    reps = ends - starts - 1
    return np.asarray(np.repeat(starts + 1, reps) + np.arange(reps.sum()) - np.repeat(np.cumsum(reps) - reps, reps), np.int64)
