"""The prefix tree of a micro-batch: tokens that several sequences share stand in it once (DESIGN, The training core 2).

Sequences are token ids with a weight per token; weight 0 is not scored. The last token of a sequence is never an input, only a target. The tree is path-compressed:
a segment is a run of tokens with no branch inside. Segments are laid out depth first, so the flat order of the tokens is also a valid causal order.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sequence:
    """One token sequence. `weights[t]` scores the prediction of `ids[t]`; weights[0] is ignored, as nothing predicts the first token."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.weights):
            raise ValueError(f"{len(self.ids)} ids but {len(self.weights)} weights")
        if len(self.ids) < 2:
            raise ValueError("a sequence needs at least two tokens: one to read and one to predict")


@dataclass
class Segment:
    """A run of tokens. `start` is its place in the flat order, `depth` the position id of its first token, `parent` a segment index or -1."""

    parent: int
    start: int
    length: int
    depth: int


@dataclass(frozen=True)
class Tree:
    """The flat tree. T unique tokens, R scored predictions.

    ids, positions: (T,) int64. segments: depth first. scored_at: (R,) flat index of the token whose hidden state predicts; target: (R,) token id;
    weight: (R,) float32; sequence: (R,) which sequence each prediction belongs to. `tokens_in` counts the tokens of all sequences without sharing.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: tuple[Segment, ...]
    scored_at: NDArray[np.int64]
    target: NDArray[np.int64]
    weight: NDArray[np.float32]
    sequence: NDArray[np.int64]
    tokens_in: int

    def ancestors(self, segment: int) -> NDArray[np.int64]:
        """Flat indices of every token before this segment on its path, root first."""
        runs = []
        parent = self.segments[segment].parent
        while parent >= 0:
            run = self.segments[parent]
            runs.append(np.arange(run.start, run.start + run.length))
            parent = run.parent
        return np.concatenate(runs[::-1]) if runs else np.empty(0, np.int64)


@dataclass
class _Node:
    tokens: tuple[int, ...]
    children: dict[int, _Node] = field(default_factory=dict)
    start: int = -1

    def split(self, at: int) -> None:
        """Cut this run in two; what hung below hangs below the second half."""
        rest = _Node(self.tokens[at:], self.children)
        self.tokens, self.children = self.tokens[:at], {rest.tokens[0]: rest}


class Trie:
    """A growing prefix tree that knows its size: `cost` tells how many tokens a sequence would add, before it is added."""

    def __init__(self) -> None:
        self.roots: dict[int, _Node] = {}
        self.size = 0
        self.sequences: list[Sequence] = []

    def cost(self, sequence: Sequence) -> int:
        """Unique tokens that adding `sequence` would bring."""
        ids, at = sequence.ids[:-1], 0
        children = self.roots
        while at < len(ids) and (node := children.get(ids[at])) is not None:
            shared = _shared(node.tokens, ids, at)
            at += shared
            if shared < len(node.tokens):
                break
            children = node.children
        return len(ids) - at

    def add(self, sequence: Sequence) -> None:
        """Insert the inputs of `sequence` (all tokens but the last)."""
        self.size += self.cost(sequence)
        self.sequences.append(sequence)
        ids, at = sequence.ids[:-1], 0
        children = self.roots
        while at < len(ids):
            node = children.get(ids[at])
            if node is None:
                children[ids[at]] = _Node(ids[at:])
                return
            shared = _shared(node.tokens, ids, at)
            at += shared
            if shared < len(node.tokens):
                if at == len(ids):
                    return  # ends inside a run: nothing branches there
                node.split(shared)
            children = node.children

    def flatten(self) -> Tree:
        """Lay the tree out."""
        ids: list[int] = []
        positions: list[int] = []
        segments: list[Segment] = []
        stack = [(node, -1, 0) for node in reversed(self.roots.values())]
        while stack:
            node, parent, depth = stack.pop()
            node.start = len(ids)
            segments.append(Segment(parent, node.start, len(node.tokens), depth))
            ids += node.tokens
            positions += range(depth, depth + len(node.tokens))
            stack += [(child, len(segments) - 1, depth + len(node.tokens)) for child in reversed(node.children.values())]
        scored_at: list[int] = []
        target: list[int] = []
        weight: list[float] = []
        owner: list[int] = []
        for index, sequence in enumerate(self.sequences):
            path = self._path(sequence)
            for t in range(1, len(sequence.ids)):
                if sequence.weights[t]:
                    scored_at.append(path[t - 1])
                    target.append(sequence.ids[t])
                    weight.append(sequence.weights[t])
                    owner.append(index)
        tokens_in = sum(len(sequence.ids) - 1 for sequence in self.sequences)
        return Tree(
            np.array(ids, np.int64),
            np.array(positions, np.int64),
            tuple(segments),
            np.array(scored_at, np.int64),
            np.array(target, np.int64),
            np.array(weight, np.float32),
            np.array(owner, np.int64),
            tokens_in,
        )

    def _path(self, sequence: Sequence) -> list[int]:
        """Flat index of each input token of a sequence that is in the tree."""
        ids, path = sequence.ids[:-1], list[int]()
        children = self.roots
        while len(path) < len(ids):
            node = children[ids[len(path)]]
            take = min(len(node.tokens), len(ids) - len(path))
            path += range(node.start, node.start + take)
            children = node.children
        return path


def build(sequences: Seq[Sequence]) -> Tree:
    """The tree of all `sequences`, in their order."""
    trie = Trie()
    for sequence in sequences:
        trie.add(sequence)
    return trie.flatten()


def pack(groups: Seq[Seq[Sequence]], budget: int) -> Iterator[tuple[list[int], Tree]]:
    """Trees of at most `budget` unique tokens (a longer single group stands alone), with the indices of the groups in each.

    Groups are sorted by their tokens first, so that shared prefixes meet. A group's sequences stay together.
    """
    trie, members = Trie(), list[int]()
    for index in sorted(range(len(groups)), key=lambda index: groups[index][0].ids):
        if members and trie.size + sum(trie.cost(sequence) for sequence in groups[index]) > budget:
            yield members, trie.flatten()
            trie, members = Trie(), []
        members.append(index)
        for sequence in groups[index]:
            trie.add(sequence)
    if members:
        yield members, trie.flatten()


def _shared(run: tuple[int, ...], ids: tuple[int, ...], at: int) -> int:
    """How many tokens of `run` equal those of `ids` from `at` on."""
    limit = min(len(run), len(ids) - at)
    if run[:limit] == ids[at : at + limit]:
        return limit
    return next(index for index in range(limit) if run[index] != ids[at + index])
