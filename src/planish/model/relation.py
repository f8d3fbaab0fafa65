"""How two figures of the rows of a step or of a validation go together: sums that add up over micro-batches and ranks, and Pearson's r of them at the end."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_ROWS = 3
"""Of two rows r is 1 or -1 whatever they say."""


class Relation(NamedTuple):
    """Sums over the rows of one micro-batch of two figures x and y."""

    rows: float
    x: float
    y: float
    xx: float
    yy: float
    xy: float


def related(x: Tensor, y: Tensor, among: Tensor | None = None) -> Relation:
    """The sums of x and y (N,) over the rows that `among` (N,) marks, or over all; in double precision, as the variance is a difference of two of them."""
    x, y = x.detach().double(), y.detach().double()
    if among is not None:
        x, y = x[among], y[among]
    return Relation(float(len(x)), *torch.stack([x.sum(), y.sum(), x @ x, y @ y, x @ y]).tolist())


def pearson(sums: Relation) -> float | None:
    """r of rows whose sums these are; None of fewer than three rows, and where x or y never changes but for rounding."""
    n, x, y, xx, yy, xy = sums
    if n < LEAST_ROWS:
        return None
    varied = (xx / n - (x / n) ** 2, yy / n - (y / n) ** 2)
    if varied[0] <= 1e-12 * xx / n or varied[1] <= 1e-12 * yy / n:
        return None
    return max(-1.0, min(1.0, (xy / n - x / n * y / n) / math.sqrt(varied[0] * varied[1])))
