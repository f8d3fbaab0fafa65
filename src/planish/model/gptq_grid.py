"""The grid that GPTQ rounds a group of weights to: of several scales, the one whose rounding costs least (MISSION Z4)."""

from __future__ import annotations

import torch
from torch import Tensor

from planish.model.rtn import Grid, grid

PARTS = tuple(1 - step / 25 for step in range(11))
"""Of a group's range that a grid is tried for: all of it down to .6."""


def fitted(weight: Tensor, cost: Tensor, bits: int, group: int, *, symmetric: bool = True, stored: torch.dtype = torch.float32) -> Grid:
    """For each group of weight (O, D) the grid with the least sum of cost_j (w_j - q_j)^2, of equals the widest; cost (D,) is what a squared error of a column costs.

    A grid for a part of the range is finer, and what lies outside is cut to its ends: a few large weights of columns that cost little need not make all others coarse.
    """
    of = torch.arange(weight.shape[1]) // group
    best = grid(weight, bits, group, symmetric=symmetric, stored=stored)
    least = _costs(weight, best, of, cost)
    for part in PARTS[1:]:
        tried = grid(part * weight, bits, group, symmetric=symmetric, stored=stored)
        costs = _costs(weight, tried, of, cost)
        better = costs < least
        least = torch.where(better, costs, least)
        best = Grid(torch.where(better, tried.scale, best.scale), torch.where(better, tried.zero, best.zero), bits)
    return best


def _costs(weight: Tensor, tried: Grid, of: Tensor, cost: Tensor) -> Tensor:
    """(O, groups) what rounding each group to its grid costs."""
    apart = tried.values(tried.codes(weight, of), of) - weight
    return (apart.square_().mul_(cost)).reshape(*tried.scale.shape, -1).sum(-1)
