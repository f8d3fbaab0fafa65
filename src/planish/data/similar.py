"""Which rows' shingle sets are alike: exact Jaccard of given pairs, and the pairs that could reach a threshold (prefix filter).

_N rows, _P pairs, _S shingles of all rows together, as in `shingles`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from planish.data.shingles import Shingles

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Left and right row of each pair, (_P,) and (_P,)."""

_AT_ONCE = 20_000  # pairs compared in one go
_FEW = 4  # pairs a row has on average, above which bounding them first is worth it


def jaccard(sets: Shingles, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shared shingles over all shingles of each pair, (_P,); 0 where both rows have none."""
    found = np.zeros(len(left))
    for begin in range(0, len(left), _AT_ONCE):
        ours, theirs = left[begin : begin + _AT_ONCE], right[begin : begin + _AT_ONCE]
        values, place = sets.take(np.concatenate([ours, theirs]))
        keyed = np.sort(((place % len(ours)).astype(np.uint64) << np.uint64(32)) | values)
        shared = np.bincount((keyed[1:][keyed[1:] == keyed[:-1]] >> np.uint64(32)).astype(np.int64), minlength=len(ours))
        union = sets.sizes[ours] + sets.sizes[theirs] - shared
        found[begin : begin + _AT_ONCE] = shared / np.maximum(union, 1)
    return found


def reachable(sets: Shingles, pairs: Pairs, threshold: float) -> NDArray[np.bool_]:
    """Whether the sizes of a pair allow a Jaccard of `threshold`: the smaller set is at least that share of the larger, (_P,)."""
    ours, theirs = sets.sizes[pairs[0]], sets.sizes[pairs[1]]
    return np.minimum(ours, theirs) >= threshold * np.maximum(ours, theirs)


def at_most(sets: Shingles, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """A bound on the Jaccard of each pair from above, (_P,), seldom above it at all: much faster than `jaccard` where one left row has many pairs.

    `left` is sorted. A left row's shingles are marked in a table by their lowest 20 bits, and each right row's are looked up in it.
    """
    found = np.empty(len(left))
    marked = np.zeros(1 << 20, bool)
    edges = np.flatnonzero(np.concatenate(([True], left[1:] != left[:-1], [True])))
    for begin, end in pairwise(edges.tolist()):
        row = left[begin]
        ours = sets.values[sets.starts[row] : sets.starts[row + 1]] & 0xFFFFF
        values, place = sets.take(right[begin:end])
        marked[ours] = True
        shared = np.bincount(place[marked[values & 0xFFFFF]], minlength=end - begin)
        marked[ours] = False
        union = len(ours) + sets.sizes[right[begin:end]] - shared
        found[begin:end] = shared / np.maximum(union, 1)
    return found


def confirmed(sets: Shingles, left: NDArray[np.int64], right: NDArray[np.int64], threshold: float) -> tuple[*Pairs, NDArray[np.float64]]:
    """The given pairs that reach `threshold`, each once, in order, with their Jaccard (_P,)."""
    codes = np.sort(left * len(sets) + right)  # numpy's own `unique` hashes, and takes a hundred times as long on codes like these
    codes = codes[np.concatenate(([True], codes[1:] != codes[:-1]))] if len(codes) else codes
    left, right = codes // len(sets), codes % len(sets)
    if len(left) > _FEW * (np.count_nonzero(np.diff(left)) + 1):
        likely = at_most(sets, left, right) >= threshold
        left, right = left[likely], right[likely]
    exact = jaccard(sets, left, right)
    same = exact >= threshold
    return left[same], right[same], exact[same]


def prefix_pairs(sets: Shingles, rows: NDArray[np.int64], threshold: float) -> Iterator[Pairs]:
    """Pairs of `rows`, each with each, in batches. A pair may come more than once; none that reaches `threshold` is missing.

    With all shingles in one order, rare ones first, two sets of Jaccard t or more share one among the first n - ceil(t n) + 1 of each
    (Chaudhuri, Ganti and Kaushik 2006; Xiao et al. 2008, PPJoin). So texts that share only a common template are never compared.
    """
    token, place = _prefixes(sets, rows, threshold)
    order = np.lexsort((sets.sizes[rows[place]], token))
    token, place = token[order], place[order]
    edges = np.flatnonzero(np.concatenate(([True], token[1:] != token[:-1], [True]))) if len(token) else np.zeros(1, np.int64)
    yield from within(rows[place], edges[:-1], edges[1:])


def within(rows: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[Pairs]:
    """Every pair of each group; group k is `rows[starts[k]:ends[k]]`. Batches are by distance within the group, so that each is one array operation."""
    end_of = np.repeat(ends, ends - starts)
    at = np.repeat(starts, ends - starts) + _running(ends - starts)
    distance = 1
    while len(at):
        keep = at + distance < end_of
        at, end_of = at[keep], end_of[keep]
        if len(at):
            ours, theirs = rows[at], rows[at + distance]
            yield np.minimum(ours, theirs), np.maximum(ours, theirs)
        distance += 1


def across(rows: NDArray[np.int64], starts: NDArray[np.int64], split: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[Pairs]:
    """Every pair of a member before `split` with one behind it, for each group."""
    mixed = (split > starts) & (split < ends)
    starts, split, ends = starts[mixed], split[mixed], ends[mixed]
    distance = 0
    while len(starts):
        reps = ends - split
        yield np.repeat(rows[starts + distance], reps), rows[np.repeat(split, reps) + _running(reps)]
        distance += 1
        more = starts + distance < split
        starts, split, ends = starts[more], split[more], ends[more]


def _prefixes(sets: Shingles, rows: NDArray[np.int64], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The prefix shingles that several rows have, as ranks by rarity, and the place in `rows` of each."""
    values, place = sets.take(rows)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    ranks = np.sort((place << 32) | rank[inverse])
    lengths = sets.sizes[rows]
    first = lengths - np.ceil(threshold * lengths - 1e-9).astype(np.int64) + 1
    in_prefix = _running(lengths) < np.repeat(first, lengths)
    place, token = ranks[in_prefix] >> 32, ranks[in_prefix] & 0xFFFFFFFF
    shared = np.sort(counts)[token] > 1
    return token[shared], place[shared]


def _running(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .. lengths[0] - 1, 0, 1, .. lengths[1] - 1, and so on."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
