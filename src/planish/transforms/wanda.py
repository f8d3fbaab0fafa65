"""Wanda: in every row of a matrix the weights set to zero that are small where the input is small too, |w| times the input's length (arXiv 2306.11695)."""

from __future__ import annotations

import torch
from torch import Tensor

from planish.errors import InputError, Problem


def transform(weight: Tensor, norms: Tensor | None, *, sparsity: float = 0.5) -> Tensor:
    """`weight` (R, C) with the int(sparsity * C) smallest of |w_ij| ||x_j|| of each row set to 0, of equal ones the first. `norms` (C,) are the ||x_j|| of calibration.

    Raises InputError without norms, for norms of another width, and for a sparsity outside 0 to 1.
    """
    if not 0 <= sparsity < 1:
        raise InputError(Problem("sparsity", f"{sparsity} is no share of the weights", "0.5 zeroes half of them"))
    if norms is None or norms.shape != weight.shape[1:]:
        had = "no norms" if norms is None else f"{len(norms)} norms for {weight.shape[1]} columns"
        raise InputError(Problem("wanda", f"there are {had}", "calibrate the model on training rows, or use magnitude"))
    gone = torch.sort(weight.abs() * norms, dim=1, stable=True).indices[:, : int(sparsity * weight.shape[1])]
    return weight.scatter(1, gone, 0)
