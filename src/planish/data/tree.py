"""The prefix tree of a micro-batch: tokens that several sequences share stand in it once (DESIGN, The training core 2).

Sequences are token ids with a weight per token; weight 0 is not scored. The last token of a sequence is never an input, only a target. The tree is path-compressed:
a segment is a run of tokens with no branch inside. Segments are laid out depth first, so the flat order of the tokens is also a valid causal order, and what hangs below a
token is one interval of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planish.data.bins import best_fit_decreasing

MEET = 8
"""Rows that share fewer tokens than this are not worth a place in the same micro-batch: a full bin is worth more."""


@dataclass(frozen=True)
class Sequence:
    """One token sequence. `weights[t]` scores the prediction of `ids[t]`; weights[0] is ignored, as nothing predicts the first token.

    `given` are numbers that its objective will want at the loss: a reference log-probability, a label. All sequences of a run have equally many.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    given: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.weights):
            raise ValueError(f"{len(self.ids)} ids but {len(self.weights)} weights")
        if len(self.ids) < 2:
            raise ValueError("a sequence needs at least two tokens: one to read and one to predict")

    @cached_property
    def inputs(self) -> NDArray[np.int64]:
        """All tokens but the last: (L,)."""
        return np.array(self.ids[:-1], np.int64)

    @cached_property
    def scored(self) -> NDArray[np.int64]:
        """Places t >= 1 whose prediction has a weight."""
        return np.flatnonzero(np.array(self.weights[1:])) + 1


@dataclass
class Segment:
    """A run of tokens. `start` is its place in the flat order, `depth` the position id of its first token, `parent` a segment index or -1."""

    parent: int
    start: int
    length: int
    depth: int


@dataclass(frozen=True)
class Tree:
    """The flat tree. T unique tokens, R scored predictions, S sequences.

    ids, positions: (T,) int64. segments: depth first. scored_at: (R,) flat index of the token whose hidden state predicts; target: (R,) token id;
    weight: (R,) float32; sequence: (R,) which sequence each prediction belongs to. `tokens_in` counts the tokens of all sequences without sharing.
    given: (S, K) float32, what the objective gave with each sequence.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: tuple[Segment, ...]
    scored_at: NDArray[np.int64]
    target: NDArray[np.int64]
    weight: NDArray[np.float32]
    sequence: NDArray[np.int64]
    tokens_in: int
    sequences: int
    given: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(T,) for each token the end of the interval that hangs below it: i sees j exactly when j <= i < ends[j]."""
        below = [segment.start + segment.length for segment in self.segments]
        for index in range(len(below) - 1, -1, -1):
            parent = self.segments[index].parent
            if parent >= 0:
                below[parent] = max(below[parent], below[index])
        return np.repeat(np.array(below, np.int64), [segment.length for segment in self.segments])

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Segments with nothing below them. Every sequence lies on the path to one."""
        parents = {segment.parent for segment in self.segments}
        return tuple(index for index in range(len(self.segments)) if index not in parents)

    def path(self, segment: int) -> NDArray[np.int64]:
        """Flat indices of every token from the root to the end of this segment; nothing for -1."""
        runs = []
        while segment >= 0:
            run = self.segments[segment]
            runs.append(np.arange(run.start, run.start + run.length))
            segment = run.parent
        return np.concatenate(runs[::-1]) if runs else np.empty(0, np.int64)

    def ancestors(self, segment: int) -> NDArray[np.int64]:
        """Flat indices of every token before this segment on its path, root first."""
        return self.path(self.segments[segment].parent)

    def restricted(self, leaves: Seq[int]) -> tuple[Tree, NDArray[np.int64]]:
        """The tree of these leaves' paths alone, with nothing scored, and the flat index that each of its tokens has here."""
        wanted: set[int] = set()
        for leaf in leaves:
            while leaf >= 0 and leaf not in wanted:
                wanted.add(leaf)
                leaf = self.segments[leaf].parent
        kept = sorted(wanted)
        new = {old: index for index, old in enumerate(kept)}
        starts = np.cumsum([0, *[self.segments[old].length for old in kept]])
        segments = tuple(
            Segment(new.get(self.segments[old].parent, -1), int(starts[new[old]]), self.segments[old].length, self.segments[old].depth) for old in kept
        )
        places = np.concatenate([np.arange(self.segments[old].start, self.segments[old].start + self.segments[old].length) for old in kept])
        none = np.empty(0, np.int64)
        return Tree(self.ids[places], self.positions[places], segments, none, none, np.empty(0, np.float32), none, len(places), 0), places


@dataclass
class _Node:
    tokens: NDArray[np.int64]
    children: dict[int, _Node] = field(default_factory=dict)
    start: int = -1

    def split(self, at: int) -> None:
        """Cut this run in two; what hung below hangs below the second half."""
        rest = _Node(self.tokens[at:], self.children)
        self.tokens, self.children = self.tokens[:at], {int(rest.tokens[0]): rest}


class Trie:
    """A growing prefix tree that knows its size: `cost` tells how many tokens a sequence would add, before it is added."""

    def __init__(self) -> None:
        self.roots: dict[int, _Node] = {}
        self.size = 0
        self.sequences: list[Sequence] = []

    def cost(self, sequence: Sequence) -> int:
        """Unique tokens that adding `sequence` would bring."""
        ids, at, children = sequence.inputs, 0, self.roots
        while at < len(ids) and (node := children.get(int(ids[at]))) is not None:
            shared = shared_prefix(node.tokens, ids[at:])
            at += shared
            if shared < len(node.tokens):
                break
            children = node.children
        return len(ids) - at

    def add(self, sequence: Sequence) -> None:
        """Insert the inputs of `sequence` (all tokens but the last)."""
        self.sequences.append(sequence)
        ids, at, children = sequence.inputs, 0, self.roots
        while at < len(ids):
            node = children.get(int(ids[at]))
            if node is None:
                children[int(ids[at])] = _Node(ids[at:])
                self.size += len(ids) - at
                return
            shared = shared_prefix(node.tokens, ids[at:])
            at += shared
            if shared < len(node.tokens):
                if at == len(ids):
                    return  # ends inside a run: nothing branches there
                node.split(shared)
            children = node.children

    def flatten(self) -> Tree:
        """Lay the tree out."""
        runs: list[NDArray[np.int64]] = []
        segments: list[Segment] = []
        size = 0
        stack = [(node, -1, 0) for node in reversed(self.roots.values())]
        while stack:
            node, parent, depth = stack.pop()
            node.start = size
            size += len(node.tokens)
            segments.append(Segment(parent, node.start, len(node.tokens), depth))
            runs.append(node.tokens)
            stack += [(child, len(segments) - 1, depth + len(node.tokens)) for child in reversed(node.children.values())]
        lengths = np.array([segment.length for segment in segments], np.int64)
        offset = np.array([segment.depth - segment.start for segment in segments], np.int64)
        places = [self._path(sequence)[sequence.scored - 1] for sequence in self.sequences]
        return Tree(
            ids=np.concatenate(runs),
            positions=np.arange(size) + np.repeat(offset, lengths),
            segments=tuple(segments),
            scored_at=np.concatenate(places),
            target=np.concatenate([np.array(sequence.ids, np.int64)[sequence.scored] for sequence in self.sequences]),
            weight=np.concatenate([np.array(sequence.weights, np.float32)[sequence.scored] for sequence in self.sequences]),
            sequence=np.repeat(np.arange(len(self.sequences)), [len(place) for place in places]),
            tokens_in=sum(len(sequence.ids) - 1 for sequence in self.sequences),
            sequences=len(self.sequences),
            given=np.array([sequence.given for sequence in self.sequences], np.float32),
        )

    def _path(self, sequence: Sequence) -> NDArray[np.int64]:
        """Flat index of each input token of a sequence that is in the tree."""
        ids, at, children = sequence.inputs, 0, self.roots
        runs = []
        while at < len(ids):
            node = children[int(ids[at])]
            take = min(len(node.tokens), len(ids) - at)
            runs.append(np.arange(node.start, node.start + take))
            at += take
            children = node.children
        return np.concatenate(runs)


def build(sequences: Seq[Sequence]) -> Tree:
    """The tree of all `sequences`, in their order."""
    trie = Trie()
    for sequence in sequences:
        trie.add(sequence)
    return trie.flatten()


def pack(groups: Seq[Seq[Sequence]], budget: int, *, shared: bool = True) -> Iterator[tuple[list[int], Tree]]:
    """Trees of at most `budget` unique tokens (a longer single group stands alone), with the indices of the groups in each. A group's sequences stay together.

    Groups are put in the order of their tokens, so that shared prefixes meet in runs; the runs are packed best-fit decreasing. Which groups there are, and so the order of
    training, is the caller's alone. Without `shared` the budget counts the cells of rows padded to the longest, for a model that the tree cannot serve.
    """
    sizes = [_unique(group) for group in groups]
    for bin_ in _shared_bins(groups, sizes, budget) if shared else _padded_bins(groups, budget):
        yield bin_, build([sequence for index in bin_ for sequence in groups[index]])


def _shared_bins(groups: Seq[Seq[Sequence]], sizes: Seq[int], budget: int) -> Iterator[list[int]]:
    runs: list[list[int]] = []
    tokens: list[int] = []  # of each run, at most
    before: NDArray[np.int64] = np.empty(0, np.int64)
    for index in sorted(range(len(groups)), key=lambda index: groups[index][0].ids):
        ids = groups[index][0].inputs
        met = shared_prefix(before, ids)
        if met >= MEET and tokens[-1] + sizes[index] - met <= budget:
            runs[-1].append(index)
            tokens[-1] += sizes[index] - met
        else:
            runs.append([index])
            tokens.append(sizes[index])
        before = ids
    for members in best_fit_decreasing(tokens, budget):
        yield [index for run in sorted(members) for index in runs[run]]


def _padded_bins(groups: Seq[Seq[Sequence]], budget: int) -> Iterator[list[int]]:
    longest = [max(len(sequence.ids) - 1 for sequence in group) for group in groups]
    members: list[int] = []
    rows = width = 0
    for index in sorted(range(len(groups)), key=lambda index: -longest[index]):
        if members and (rows + len(groups[index])) * width > budget:
            yield members
            members, rows = [], 0
        width = width if members else longest[index]
        members.append(index)
        rows += len(groups[index])
    if members:
        yield members


def _unique(group: Seq[Sequence]) -> int:
    """Unique tokens of one group."""
    if len(group) == 1:
        return len(group[0].ids) - 1
    trie = Trie()
    for sequence in group:
        trie.add(sequence)
    return trie.size


def shared_prefix(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many tokens two runs have in common from their beginnings on."""
    limit = min(len(one), len(other))
    differs = one[:limit] != other[:limit]
    at = int(differs.argmax()) if limit else 0
    return at if limit and differs[at] else limit
