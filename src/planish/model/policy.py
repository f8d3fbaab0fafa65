"""A model's word on a prefix tree: the log-probability of every scored token, from one forward pass in which shared prefixes are computed once."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from planish.data.tree import Tree
from planish.model import plain_packing, scored_head, tree_attention
from planish.model.backbone import base_of
from planish.model.head_terms import Divergence, Entropy, LogProb, Teacher, Term
from planish.model.layer_states import Kept, kept_of
from planish.model.layout import layout_of, use_tree
from planish.model.lm_head import Head, head_of
from planish.model.tree_forward import autocast, forward
from planish.model.trunk import Trunk

__all__ = ["Rows", "Scored", "autocast", "base_of", "head_of", "head_weight", "hidden_states", "score"]


@dataclass(frozen=True)
class Rows:
    """The R scored rows before the head, for objectives that ask more of them than log-probabilities. hidden: (R, H); target: (R,)."""

    hidden: Tensor
    head: Head
    target: Tensor
    precision: str
    class_head: nn.Module | None = None

    def class_logits(self) -> Tensor:
        """What a trained head of classes, of one value or of one reward says of each row: (R, classes). Differentiable. Raises ValueError without one."""
        if self.class_head is None:
            raise ValueError("the model has no head of its own")
        found: Tensor = self.class_head(self.hidden)
        return found

    def log_prob(self) -> Tensor:
        """ln p(target): (R,). Differentiable."""
        return self._measure(LogProb(self.target))

    def entropy(self, *, gradient: bool = False) -> Tensor:
        """Entropy of the next-token distribution in nats: (R,). Without `gradient` it costs one matrix product and is only to look at."""
        with nullcontext() if gradient else torch.no_grad():
            return self._measure(Entropy())

    def divergence(self, teacher: Teacher, direction: Literal["forward", "reverse"] = "forward") -> Tensor:
        """KL to a sparse teacher whose rows are these: (R,). Differentiable."""
        return self._measure(Divergence(teacher, direction))

    def blend(self, terms: Seq[Term], weights: Seq[float]) -> tuple[Tensor, ...]:
        """The weighted sum of several terms, differentiable at the price of one, then each to look at: (R,) each."""
        with autocast(self.precision, self.hidden.device):
            return scored_head.blend(self.hidden, self.head, terms, weights)

    def _measure(self, term: Term) -> Tensor:
        with autocast(self.precision, self.hidden.device):
            return scored_head.measure(self.hidden, self.head, [term])[0]


class Place(NamedTuple):
    """Where R scored rows stand: the tree, and the flat index (R,) of the token whose hidden state predicts each. `kept`: the layers that something looks at."""

    tree: Tree
    at: NDArray[np.int64]
    kept: Kept | None = None

    def restricted(self) -> Place:
        """The same rows on the paths that lead to them alone."""
        starts = np.array([segment.start for segment in self.tree.segments])
        part, places = self.tree.restricted(np.unique(np.searchsorted(starts, self.at, side="right") - 1).tolist())
        return Place(part, np.searchsorted(places, self.at))


class Scored:
    """R scored tokens of a micro-batch. log_prob, weight: (R,) fp32; sequence: (R,) which of the S sequences a token belongs to.

    `log_prob` is computed when first asked for, unless it was given; an objective that blends terms of `rows` never pays for it. `given`: (S, K) fp32, the numbers that the
    objective gave with each sequence; sequences stand in the order of their examples, those of one example together. `place` is where they stand, for a second model.
    """

    def __init__(
        self,
        log_prob: Tensor | None,
        weight: Tensor,
        sequence: Tensor,
        sequences: int,
        rows: Rows | None = None,
        given: Tensor | None = None,
        place: Place | None = None,
    ) -> None:
        if log_prob is None and rows is None:
            raise ValueError("either log-probabilities or the rows to make them of")
        self._log_prob, self.weight, self.sequence, self.sequences, self._rows = log_prob, weight, sequence, sequences, rows
        self.given = weight.new_empty(sequences, 0) if given is None else given
        self._place = place

    @property
    def log_prob(self) -> Tensor:
        """(R,), differentiable."""
        if self._log_prob is None:
            self._log_prob = self.rows.log_prob()
        return self._log_prob

    @property
    def rows(self) -> Rows:
        """The rows before the head. Raises ValueError where only log-probabilities were given."""
        if self._rows is None:
            raise ValueError("only log-probabilities were given, not the rows they are of")
        return self._rows

    @property
    def place(self) -> Place:
        """Where the rows stand. Raises ValueError where no tree was given."""
        if self._place is None:
            raise ValueError("only rows were given, not the tree they stand on")
        return self._place

    def part(self, chosen: Tensor) -> Scored:
        """The sequences that `chosen` (S,) marks, in their order, as if they stood alone; differentiable like the whole."""
        kept = chosen[self.sequence].nonzero()[:, 0]
        sequence = (chosen.cumsum(0) - 1)[self.sequence[kept]]
        rows = replace(self.rows, hidden=self.rows.hidden[kept], target=self.rows.target[kept])
        place = None if self._place is None else self._place._replace(at=self._place.at[kept.cpu().numpy()])
        return Scored(None, self.weight[kept], sequence, int(chosen.sum()), rows, self.given[chosen], place)

    def sums(self) -> Tensor:
        """Weighted log-probability of each sequence: (S,)."""
        return torch.zeros(self.sequences, device=self.log_prob.device, dtype=self.log_prob.dtype).index_add(0, self.sequence, self.log_prob * self.weight)

    def lengths(self) -> Tensor:
        """The weight of each sequence, its number of scored tokens where every weight is 1: (S,)."""
        return torch.zeros(self.sequences, device=self.weight.device, dtype=self.weight.dtype).index_add(0, self.sequence, self.weight)


def hidden_states(
    model: nn.Module, tree: Tree, device: torch.device | str = "cpu", *, trunk: Trunk | None = None, way: tree_attention.Way | None = None
) -> Tensor:
    """Last hidden states of every unique token: (T, H). A model that the tree cannot serve computes its paths as plain rows (`layout_of` has the reason).

    Where adapters have dropout, a shared token is dropped once for all sequences that share it, as it is computed once: their gradients are those of one mask on the prefix, not of
    a mask each. `trunk` keeps what the frozen layers below the lowest trained one gave (planish.model.trunk). `way` overrides the kernel that suits the device.
    """
    if layout_of(model).kind == "rows":
        return plain_packing.hidden_states(model, tree, device)
    use_tree(model)  # generation leaves the model's own attention, which would let the branches see each other and say nothing of it
    return forward(model, tree, device, way) if trunk is None else trunk.hidden_states(tree, device)


def head_weight(model: nn.Module) -> Tensor:
    """The LM head's matrix (V, H). What a family does to the logits behind it is in `head_of`."""
    return head_of(model).weight


def score(
    model: nn.Module,
    tree: Tree,
    precision: str,
    device: torch.device | str = "cpu",
    *,
    trunk: Trunk | None = None,
    way: tree_attention.Way | None = None,
) -> Scored:
    """Log-probabilities of the tree's scored tokens, and what else is asked of their rows; only they reach the LM head. Differentiable."""
    with autocast(precision, device):
        hidden = hidden_states(model, tree, device, trunk=trunk, way=way).index_select(0, torch.from_numpy(tree.scored_at).to(device))
    rows = Rows(hidden, head_of(model), torch.from_numpy(tree.target).to(device), precision, getattr(base_of(model), "class_head", None))
    weight, sequence, given = (torch.from_numpy(array).to(device) for array in (tree.weight, tree.sequence, tree.given))
    return Scored(None, weight, sequence, tree.sequences, rows, given, Place(tree, tree.scored_at, kept_of(model)))
