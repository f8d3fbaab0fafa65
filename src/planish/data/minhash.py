"""MinHash with banding: the rows that are near-duplicates of each other, without comparing all with all (MISSION D6).

_N rows, _P pairs, as in `sketch` and `similar`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from planish.data.parallel import map_threads
from planish.data.similar import Pairs, across, confirmed, prefix_pairs, reachable, within
from planish.data.sketch import BANDS, PERMUTATIONS, Sketched

CROWD = 64
"""A bucket with more rows than this comes from text that many rows share; its pairs are found by their rare shingles instead."""

MAX_PAIRS = 30_000_000
"""Pairs looked at before the rest is left, and counted as left: some 20 seconds' work."""

_AGREE = 0.66  # of 128 hashes; rows of Jaccard .8 agree in fewer with a probability of 4e-5
_AT_ONCE = 8192
_BANDS_AT_ONCE = 8  # columns of keys copied together
_MARKED = 20  # bits of a key in a table that fits the processor's cache
_LOWEST, _LOW = np.uint32((1 << _MARKED) - 1), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Links:
    """Pairs (_P,) that reach the threshold, left before right, with their Jaccard; enough of them to connect every cluster. `compared` pairs were looked at;
    `left_out` were not, because there were too many."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    jaccard: NDArray[np.float64]
    compared: int = 0
    left_out: int = 0


def links(rows: Sketched, threshold: float, accept: Callable[[Pairs], NDArray[np.bool_]] | None = None, *, max_pairs: int = MAX_PAIRS) -> Links:
    """What connects rows whose Jaccard is at least `threshold` and which `accept` (if given) takes for the same.

    Each row of a bucket is compared with the bucket's first; then the rows of one bucket that are still in different clusters with each other. So a
    thousand copies cost a thousand comparisons, and every pair that MinHash proposes is decided by its exact Jaccard or already connected.
    """
    search = _Search(rows, threshold, accept, max_pairs)
    if not len(search.rows):
        return search.links()
    for order, starts, ends in map(_wide, search.buckets):
        search.look(np.repeat(order[starts], ends - starts - 1), order[_behind_first(starts, ends)])
    search.connect()
    crowded = np.zeros(len(rows), bool)
    for band, (order, starts, ends) in enumerate(map(_wide, search.buckets)):
        mixed = search.mixed(order, starts, ends)
        crowd = mixed & (ends - starts > CROWD)
        for begin, end in zip(starts[crowd], ends[crowd], strict=True):
            crowded[order[begin:end]] = True
        few = mixed & ~crowd
        search.look_apart(within(order, starts[few], ends[few]), band)
    search.look_apart(prefix_pairs(rows.sets, np.flatnonzero(crowded), threshold))
    return search.links()


def crossing(ours: Sketched, theirs: Sketched, threshold: float, *, max_pairs: int = MAX_PAIRS) -> Links:
    """Every pair of a row of `ours` with one of `theirs` that MinHash proposes and whose Jaccard is at least `threshold`.

    Only rows that share a band with the other side are looked at: of most sets that is next to none.
    """
    mine, others = np.flatnonzero(ours.sets.sizes), np.flatnonzero(theirs.sets.sizes)

    def meetings(first: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        bands = zip(_bands(ours.keys, mine, first), _bands(theirs.keys, others, first), strict=True)
        return [_meeting(mine, my_keys, others, their_keys) for my_keys, their_keys in bands]

    met = list(chain.from_iterable(map_threads(meetings, range(0, BANDS, _BANDS_AT_ONCE))))
    left_rows, right_rows = (_once(side, len(rows)) for side, rows in zip(zip(*met, strict=True), (ours, theirs), strict=True))
    search = _Search(Sketched.joined([ours.only(left_rows), theirs.only(right_rows)]), threshold, None, max_pairs)
    keys = search.keys
    for band, (mine, others) in enumerate(met):
        both = np.concatenate([np.searchsorted(left_rows, mine), len(left_rows) + np.searchsorted(right_rows, others)])
        here = keys[both, band]
        order = np.lexsort((np.arange(len(both)) >= len(mine), here))
        here = here[order]
        edges = np.flatnonzero(np.concatenate(([True], here[1:] != here[:-1], [True]))) if len(here) else np.zeros(1, np.int64)
        split = edges[:-1] + (np.add.reduceat((order < len(mine)).astype(np.int64), edges[:-1]) if len(here) else 0)
        for left, right in across(both[order], edges[:-1], split, edges[1:]):
            if search.compared >= max_pairs:
                search.left_out += len(left)
                continue
            fresh = ~(keys[left, :band] == keys[right, :band]).any(axis=1)
            search.look(left[fresh], right[fresh])
    left, right, exact = search.waited()
    return Links(left_rows[left], right_rows[right - len(left_rows)], exact, search.compared, search.left_out)


def _once(parts: Iterable[NDArray[np.int64]], n: int) -> NDArray[np.int64]:
    """Every one of `n` rows that some part names, in order."""
    named = np.zeros(n, bool)
    for part in parts:
        named[part] = True
    return np.flatnonzero(named)


def _bands(keys: NDArray[np.uint32], rows: NDArray[np.int64], first: int) -> NDArray[np.uint32]:
    """The keys of some rows in some bands from `first` on, (bands, _N)."""
    return np.ascontiguousarray(keys[rows, first : first + _BANDS_AT_ONCE].T)


def _meeting(
    mine: NDArray[np.int64], my_keys: NDArray[np.uint32], others: NDArray[np.int64], their_keys: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of each side whose key some row of the other has, in order."""
    theirs = _among(their_keys, my_keys)
    return mine[_among(my_keys, their_keys[theirs])], others[theirs]


def _among(keys: NDArray[np.uint32], wanted: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether each key is one of the wanted: a table of their lowest bits answers for nearly all, a search for the rest."""
    found = _marks(wanted)[keys & _LOWEST]
    maybe = np.flatnonzero(found)
    ordered = np.sort(wanted[_marks(keys[maybe])[wanted & _LOWEST]])
    found[maybe] = ordered[np.searchsorted(ordered, keys[maybe]).clip(max=len(ordered) - 1)] == keys[maybe] if len(ordered) else False
    return np.asarray(found)


def _marks(keys: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which lowest bits some key has."""
    marked = np.zeros(1 << _MARKED, bool)
    marked[keys & _LOWEST] = True
    return marked


def _shared(keys: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The places of all keys that stand twice or more, and of a few others: those that are alone in their lowest bits are left out without a search."""
    low, places = keys & _LOWEST, np.arange(len(keys), dtype=np.uint32)
    last = np.empty(1 << _MARKED, np.uint32)
    last[low] = places
    return np.flatnonzero(_marks(keys[last[low] != places])[low])


_Buckets = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""Rows in order of their key in a band, and where each bucket of two rows or more begins and ends; no other rows. Within a bucket rows keep their order."""


def _buckets(keys: NDArray[np.uint32], rows: NDArray[np.int64]) -> _Buckets:
    shared = _shared(keys)
    placed = np.sort((keys[shared].astype(np.uint64) << np.uint64(32)) | rows[shared].astype(np.uint64))
    ordered = placed >> np.uint64(32)
    edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True]))) if len(placed) else np.zeros(1, np.int64)
    sizes = np.diff(edges)
    full = sizes > 1
    ends = np.cumsum(sizes[full])
    return (placed[np.repeat(full, sizes)] & _LOW).astype(np.int32), (ends - sizes[full]).astype(np.int32), ends.astype(np.int32)


def _wide(buckets: _Buckets) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For arithmetic."""
    order, starts, ends = (each.astype(np.int64) for each in buckets)
    return order, starts, ends


class _Search:
    """The pairs found so far, and the cluster each row is in by them."""

    def __init__(self, rows: Sketched, threshold: float, accept: Callable[[Pairs], NDArray[np.bool_]] | None, max_pairs: int) -> None:
        self.sets, self.sketch, self.keys = rows.sets, rows.sketch, rows.keys
        self.threshold, self.accept, self.max_pairs = threshold, accept, max_pairs
        self.rows = np.flatnonzero(self.sets.sizes)
        self.cluster = np.arange(len(rows))
        self.found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self.waiting: list[NDArray[np.int64]] = []
        self.compared = self.left_out = 0

    @cached_property
    def buckets(self) -> list[_Buckets]:
        """Of each band."""
        found = map_threads(lambda first: [_buckets(keys, self.rows) for keys in _bands(self.keys, self.rows, first)], range(0, BANDS, _BANDS_AT_ONCE))
        return list(chain.from_iterable(found))

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
        left, right, exact = self.waited()
        same = self.accept((left, right)) if self.accept is not None else np.ones(len(left), bool)
        if same.any():
            self.found.append((left[same], right[same], exact[same]))
            self.cluster = components(len(self.sets), [(pairs[0], pairs[1]) for pairs in self.found])

    def waited(self) -> tuple[*Pairs, NDArray[np.float64]]:
        """The pairs that waited and reach the threshold, each once, in order, with their Jaccard."""
        codes = np.concatenate([np.zeros(0, np.int64), *self.waiting])
        self.waiting = []
        return confirmed(self.sets, codes // len(self.sets), codes % len(self.sets), self.threshold)

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


def _behind_first(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of every member of each bucket but its first."""
    reps = ends - starts - 1
    return np.asarray(np.repeat(starts + 1, reps) + np.arange(reps.sum()) - np.repeat(np.cumsum(reps) - reps, reps), np.int64)
