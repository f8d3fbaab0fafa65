"""One step of training, and one pass over validation rows: micro-batches of this rank, one divisor for the whole batch, clip, update (MISSION T6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from planish.data.tree import Tree, pack
from planish.model.checkpoint import State
from planish.model.example import Example, Loss
from planish.model.layout import shares_prefixes
from planish.model.optimizer import trainable
from planish.model.plan import Plan
from planish.model.policy import Scored
from planish.model.ranks import Forward, Ranks, whole
from planish.model.relation import Relation, pearson
from planish.model.rollout import Rollout

LossFunction = Callable[[Scored], Loss]
OF = "of "
"""Before the name of a figure: the sum of its own counts."""
RELATED = "related "
"""Before the name of one of a relation's sums."""


@dataclass(frozen=True)
class Work:
    """What does not change while a run goes on."""

    plan: Plan
    ranks: Ranks
    forward: Forward
    classes: NDArray[np.int64] | None = None  # (N,) which rows share a prefix, where the plan's order goes by it
    rollout: Rollout | None = None


class Done(NamedTuple):
    """One step, over every rank: loss, gradient norm, unique tokens computed, tokens stood for, and the objective's own figures by name, means like the loss."""

    loss: float
    norm: float
    tokens: int
    tokens_in: int
    metrics: dict[str, float]


def one_step(state: State, examples: Seq[Example], work: Work, rate: float) -> Done:
    """Forward, backward, clip, step."""
    model, optimizer, scaler, ranks = state.model, state.optimizer, state.scaler, work.ranks
    model.train()
    share = sum(example.share for example in examples)
    total, tokens, tokens_in = 0.0, 0, 0
    sums: dict[str, float] = {}
    for tree, counts in micro_batches(examples, work.plan.micro_tokens, ranks, shares_prefixes(model)):
        found = work.forward(tree)
        part = found.total / share * float(counts)
        scaler.scale(part * ranks.gradient_scale).backward()
        total += part.item()
        _add(sums, found, counts / share)
        tokens, tokens_in = tokens + counts * len(tree.ids), tokens_in + counts * tree.tokens_in
    parameters = list(trainable(model).values())
    ranks.sum_gradients(parameters)
    scaler.unscale_(optimizer)
    norm = whole(torch.nn.utils.clip_grad_norm_(parameters, work.plan.clip)).item()
    total, all_tokens, all_tokens_in, *figures = ranks.total(total, tokens, tokens_in, *sums.values())
    if math.isfinite(total) and (math.isfinite(norm) or scaler.is_enabled()):  # the scale itself leaves out a step of infinite gradients, and falls
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)  # an adapter may let some tensors learn faster
        scaler.step(optimizer)
        if state.average is not None and math.isfinite(norm):
            state.average.update(model)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return Done(total, norm, int(all_tokens), int(all_tokens_in), _means(dict(zip(sums, figures, strict=True)), share))


def micro_batches(examples: Seq[Example], budget: int, ranks: Ranks, shared: bool = True) -> list[tuple[Tree, bool]]:
    """This rank's trees, and whether each counts: where all ranks must run equally many, one with fewer runs a tree again, times nothing."""
    trees = [tree for _, tree in pack([example.sequences for example in ranks.mine(examples)], budget, shared=shared)]
    counted = [(tree, True) for tree in trees]
    if not ranks.in_step:
        return counted
    filler = trees[-1] if trees else next(pack([examples[0].sequences], budget, shared=shared))[1]
    return counted + [(filler, False)] * (ranks.most(len(trees)) - len(trees))


def validation(model: nn.Module, examples: Seq[Example], work: Work) -> tuple[float, dict[str, float]]:
    """The loss and the objective's own figures over `examples`, divided by their shares, without gradients and without dropout."""
    share, total, sums = sum(example.share for example in examples), 0.0, dict[str, float]()
    model.eval()
    with torch.inference_mode():
        for tree, counts in micro_batches(examples, 2 * work.plan.micro_tokens, work.ranks, shares_prefixes(model)):
            found = work.forward(tree)
            total += found.total.item() * counts
            _add(sums, found, counts / share)
    own = [*sums.values()] + [0.0] * (work.ranks.most(len(sums)) - len(sums))  # a rank that had no row knows no figure, and must still send as many
    total, *figures = work.ranks.total(total, *own)
    return total / share, _means(dict(zip(sums, figures, strict=False)), share)


def _add(sums: dict[str, float], found: Loss, scale: float) -> None:
    related = [(f"{RELATED}{part} {name}", value) for name, sums_of in found.relations.items() for part, value in zip(Relation._fields, sums_of, strict=True)]
    for name, value in (*found.metrics.items(), *((OF + name, count) for name, count in found.counts.items()), *related):
        sums[name] = sums.get(name, 0.0) + value * scale


def _means(sums: dict[str, float], share: float) -> dict[str, float]:
    """Figures by name, each over its own count where it has one, and the correlations with the rows they are of. The sums were divided by `share`."""
    found = {name: value / (sums.get(OF + name, 1.0) or 1.0) for name, value in sums.items() if not name.startswith((OF, RELATED))}
    first = f"{RELATED}{Relation._fields[0]} "
    for name in (name.removeprefix(first) for name in sums if name.startswith(first)):
        relation = Relation(*(sums[f"{RELATED}{part} {name}"] * share for part in Relation._fields))
        if (r := pearson(relation)) is not None:
            found |= {name: r, f"{name}_n": float(round(relation.rows))}
    return found
