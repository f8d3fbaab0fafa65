"""AWQ: input columns that carry much are scaled up before rounding, what writes them is scaled down to match, and each group's range is cut where that costs less
(arXiv 2306.00978; MISSION Z3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from planish.model.clipping import by_output, fitted
from planish.model.gram import Gram
from planish.model.rtn import Coded, output_error, rtn

POINTS = 20
"""Exponents that are tried: 0, 1/20, ... 19/20."""


class Scaled(NamedTuple):
    """The best exponent a, its scales (D,), and the output errors of the layers together: as found, and with a = 0, which is plain rounding."""

    exponent: float
    scales: Tensor
    error: float
    rtn_error: float


def search(weights: Sequence[Tensor], gram: Gram, bits: int, group: int, *, symmetric: bool = True, stored: torch.dtype = torch.float32) -> Scaled:
    """The scales s_j = mean|x_j|^a that minimise sum ||(Q(W s)/s - W) X||^2 over the layers `weights` (O, D) that read one input; of equals the smallest exponent."""
    found: list[tuple[float, float, Tensor]] = []
    for point in range(POINTS):
        scales = scales_of(gram.mean_abs, point / POINTS)
        error = sum(
            output_error(weight, rtn(weight * scales, bits, group, symmetric=symmetric, stored=stored).values() / scales, gram.matrix) for weight in weights
        )
        found.append((error, point / POINTS, scales))
    error, exponent, scales = min(found, key=lambda one: one[:2])
    return Scaled(exponent, scales, error, found[0][0])


def clipped(weight: Tensor, gram: Tensor, bits: int, group: int, *, symmetric: bool = True, stored: torch.dtype = torch.float32) -> Coded:
    """weight (O, D) rounded on grids whose range is cut where that lowers the group's own output error over inputs of this Gram (D, D).

    Groups are cut one by one and their errors add up: where a matrix as a whole comes out no nearer, it is rounded on the whole ranges.
    """
    plain = rtn(weight, bits, group, symmetric=symmetric, stored=stored)
    cut = fitted(weight, by_output(gram), bits, group, symmetric=symmetric, stored=stored)
    found = Coded(cut.codes(weight, plain.group_of), cut, group)
    return found if output_error(weight, found.values(), gram) < output_error(weight, plain.values(), gram) else plain


def scales_of(mean_abs: Tensor, exponent: float) -> Tensor:
    """(D,) fp32: mean|x_j|^a, divided by the geometric mean of its ends so that weights stay about as large as they were. Columns that nothing comes through are left alone."""
    alive = mean_abs > 0
    if exponent == 0 or not bool(alive.any()):
        return torch.ones_like(mean_abs)
    raised = mean_abs[alive].pow(exponent).clamp_min(1e-4)
    scales = torch.ones_like(mean_abs)
    scales[alive] = raised / (raised.max() * raised.min()).sqrt()
    return scales
