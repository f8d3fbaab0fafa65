"""Magnitude: the smallest weights of a matrix set to zero, wherever they stand (arXiv 1506.02626)."""

from __future__ import annotations

import torch
from torch import Tensor

from planish.errors import InputError, Problem


def transform(weight: Tensor, norms: Tensor | None = None, *, sparsity: float = 0.5) -> Tensor:
    """`weight` (R, C) with its round(sparsity * R * C) smallest by |w| set to 0, of equal ones the first; `norms` take no part.

    Raises InputError for a sparsity outside 0 to 1.
    """
    if not 0 <= sparsity < 1:
        raise InputError(Problem("sparsity", f"{sparsity} is no share of the weights", "0.5 zeroes half of them"))
    gone = torch.sort(weight.abs().reshape(-1), stable=True).indices[: round(sparsity * weight.numel())]
    return weight.reshape(-1).index_fill(0, gone, 0).reshape(weight.shape)
