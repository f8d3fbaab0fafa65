"""The grid that GPTQ and AWQ round a group of weights to: of several parts of its range, the one whose rounding costs least (MISSION Z3, Z4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from planish.model.rtn import Grid, grid

PARTS = tuple(1 - step / 25 for step in range(11))
"""Of a group's range that a grid is tried for: all of it down to .6."""
Cost = Callable[[Tensor], Tensor]
"""What rounding errors (O, groups, group) cost: (O, groups)."""


def by_column(cost: Tensor) -> Cost:
    """sum of cost_j e_j^2; cost (D,) is what a squared error of a column costs."""
    return lambda errors: (errors.square() * cost.reshape(errors.shape[1:])).sum(-1)


def by_output(gram: Tensor) -> Cost:
    """||E X||^2 of each group alone: e G_g e^T with the group's own block of the Gram (D, D) of the inputs."""

    def cost(errors: Tensor) -> Tensor:
        _, groups, size = errors.shape
        blocks = gram.reshape(groups, size, groups, size)[torch.arange(groups), :, torch.arange(groups)]
        return (torch.bmm(errors.transpose(0, 1), blocks).transpose(0, 1) * errors).sum(-1)

    return cost


def fitted(weight: Tensor, cost: Cost, bits: int, group: int, *, symmetric: bool = True, stored: torch.dtype = torch.float32) -> Grid:
    """For each group of weight (O, D) the grid whose rounding costs least, of equals the widest.

    A grid for a part of the range is finer, and what lies outside is cut to its ends: a few large weights of columns that cost little need not make all others coarse.
    """
    of = torch.arange(weight.shape[1]) // group
    best = grid(weight, bits, group, symmetric=symmetric, stored=stored)
    least = cost(_errors(weight, best, of))
    for part in PARTS[1:]:
        tried = grid(part * weight, bits, group, symmetric=symmetric, stored=stored)
        costs = cost(_errors(weight, tried, of))
        better = costs < least
        least = torch.where(better, costs, least)
        best = Grid(torch.where(better, tried.scale, best.scale), torch.where(better, tried.zero, best.zero), bits)
    return best


def _errors(weight: Tensor, tried: Grid, of: Tensor) -> Tensor:
    """(O, groups, group) what rounding to a grid changes."""
    return (tried.values(tried.codes(weight, of), of) - weight).reshape(*tried.scale.shape, -1)
