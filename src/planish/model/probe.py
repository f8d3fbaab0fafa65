"""Logistic regression on frozen features: the head itself where nothing else is trained, and where in a model the task can be read, layer by layer (MISSION A11)."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model.backbone import base_of
from planish.model.class_head import pooled


@dataclass(frozen=True)
class Probe:
    """weight: (classes, H), bias: (classes,), in the order of `labels`."""

    weight: Tensor
    bias: Tensor
    labels: tuple[str, ...]

    def predict(self, features: Tensor) -> list[str]:
        """The likeliest label of each row."""
        return [self.labels[place] for place in (features.to(self.weight.dtype) @ self.weight.t() + self.bias).argmax(-1).tolist()]


def fit(features: Tensor, labels: Seq[str], c: float = 1.0, *, known: Seq[str] = (), iterations: int = 500) -> Probe:
    """Minimise C sum_i CE_i + 1/2 ||W||^2 by L-BFGS; the bias is not penalised. features: (N, H). The problem is convex, so that this is scikit-learn's LogisticRegression.

    Raises InputError for a label of `known` with no row (it could never be predicted), for a label outside it, and where there is one label only.
    """
    names = tuple(sorted(set(labels)))
    problems = [Problem("label", f'"{name}" has no row in train', "bring rows with it or take it out of the task") for name in sorted(set(known) - set(names))]
    problems += [Problem("label", f'"{name}" is not among the task\'s labels', "add it or mend the rows") for name in names if known and name not in known]
    if len(names) < 2:
        problems.append(Problem("label", f"all {len(labels)} rows have one label", "bring rows with another"))
    if problems:
        raise InputError(*problems)
    x = features.double()
    y = torch.tensor([names.index(label) for label in labels], device=x.device)
    weight, bias = (torch.zeros(*shape, dtype=torch.float64, device=x.device, requires_grad=True) for shape in ((len(names), x.size(1)), (len(names),)))
    solver = torch.optim.LBFGS([weight, bias], max_iter=iterations, tolerance_grad=1e-9, tolerance_change=1e-14, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        value = c * F.cross_entropy(x @ weight.t() + bias, y, reduction="sum") + 0.5 * weight.pow(2).sum()
        value.backward()
        return float(value.detach())

    solver.step(closure)
    return Probe(weight.detach(), bias.detach(), names)


@torch.no_grad()
def fit_head(
    model: nn.Module, rows: Seq[Seq[int]], labels: Seq[str], names: Seq[str], precision: str, device: torch.device | str = "cpu", *, c: float = 1.0
) -> None:
    """Put the best head for these rows into a model that has one and a frozen trunk: the trunk is run once, the fit is exact. `names` are the head's classes in their order.

    Raises InputError for a label that the head has not, or has and no row shows.
    """
    head: Any = base_of(model).class_head
    found = fit(pooled(model, rows, precision, device, head.pooling), labels, c, known=names)
    order = [found.labels.index(name) for name in names]
    head.linear.weight.copy_(found.weight[order])
    head.linear.bias.copy_(found.bias[order])


@dataclass(frozen=True)
class Reading:
    """How well a label is read behind a layer: right answers of rows that the probe was not fitted on."""

    layer: int
    right: int
    rows: int


def read_layers(train: Seq[Tensor], labels: Seq[str], held_out: Seq[Tensor], truth: Seq[str], c: float = 1.0) -> list[Reading]:
    """One probe per layer. train, held_out: (N, H) and (M, H) per layer, from `class_head.by_layer`."""
    found = []
    for layer, (own, other) in enumerate(zip(train, held_out, strict=True)):
        scale = own.double().std(0).clamp_min(1e-6)  # layers differ a thousandfold in size: without it C would mean something else in each
        probe = fit(own.double() / scale, labels, c)
        right = sum(one == two for one, two in zip(probe.predict(other.double() / scale), truth, strict=True))
        found.append(Reading(layer, right, len(truth)))
    return found
