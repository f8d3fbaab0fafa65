"""Which rows meet in a step, and what sharing spares: orders of an epoch that every seed can repeat, and the figures of the trees that come of them.

Plainly, an epoch is one seeded permutation; a step's rows are fixed by it and only their micro-batches are composed for sharing (`planish.data.tree.pack`), which changes no sum.
`shared_order` goes further and brings rows with a common prefix into the same steps.

What makes it unbiased: every row is visited once an epoch; rows of one prefix are shuffled anew each epoch and cut into blocks, blocks are shuffled, and the whole circle
of rows is turned by a uniform offset. The last makes the place of every single row exactly uniform over the epoch, whatever the sizes of the blocks, so the expected gradient of
every step is that of the whole data. What it costs: rows of a step resemble each other more, so a step's gradient varies more about that expectation. It is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planish.data.tree import Sequence, Tree, shared_prefix

LEAST = 64
"""Tokens that rows must share to be one class: shorter prefixes (a role header, a short instruction) are shared within a micro-batch anyway."""

BLOCK_STEPS = 8
"""Steps that a block of one prefix fills. The turned circle cuts blocks at other places than steps, so one step in about this many holds two prefixes."""


def order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The plain order of an epoch: one seeded permutation."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def prefix_classes(sequences: Seq[Sequence], least: int = LEAST) -> NDArray[np.int64]:
    """(N,) a class per row: rows linked by a common prefix of at least `least` tokens have the same one. O(N log N), once per run."""
    by_tokens = sorted(range(len(sequences)), key=lambda index: sequences[index].ids)
    classes = np.zeros(len(sequences), np.int64)
    for place in range(1, len(by_tokens)):
        before, here = by_tokens[place - 1], by_tokens[place]
        met = shared_prefix(sequences[before].inputs[:least], sequences[here].inputs[:least])
        classes[here] = classes[before] + (met < least)
    return classes


def shared_order(classes: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch in which rows of one class come in blocks of at most BLOCK_STEPS steps. Every row's place is uniform (see above)."""
    random = np.random.default_rng((seed, epoch))
    shuffled = random.permutation(len(classes))
    grouped = shuffled[np.argsort(classes[shuffled], kind="stable")]
    ends = np.flatnonzero(np.diff(classes[grouped])) + 1
    size = BLOCK_STEPS * batch_size
    blocks = [group[start : start + size] for group in np.split(grouped, ends) for start in range(0, len(group), size)]
    turned = np.concatenate([blocks[index] for index in random.permutation(len(blocks))])
    return np.roll(turned, random.integers(len(turned)))


@dataclass(frozen=True)
class Figures:
    """Work of some micro-batches. tokens_in: input tokens of all rows; computed: unique ones, which is what the layers see; padded: cells of the same rows padded to the longest of
    each micro-batch; scored: rows of hidden states that reach the LM head.
    """

    tokens_in: int
    computed: int
    padded: int
    scored: int

    @property
    def shared(self) -> float:
        """How many times fewer tokens are computed than the rows have: the limit of what sharing can gain."""
        return self.tokens_in / self.computed

    @property
    def padding_saved(self) -> float:
        """Share of the padded cells that hold no token, and that nobody computes here."""
        return 1 - self.tokens_in / self.padded


def figures(trees: Iterable[Tree]) -> Figures:
    """The sums over micro-batches."""
    trees = list(trees)
    return Figures(
        tokens_in=sum(tree.tokens_in for tree in trees),
        computed=sum(len(tree.ids) for tree in trees),
        padded=sum(tree.sequences * (int(tree.positions.max()) + 1) for tree in trees),
        scored=sum(len(tree.target) for tree in trees),
    )
