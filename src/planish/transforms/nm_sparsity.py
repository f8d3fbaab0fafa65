"""N:M sparsity: of every M neighbours in a row N stay, by |w| or by |w| times the input's length; 2:4 is what sparse tensor units compute (arXiv 2104.08378)."""

from __future__ import annotations

import torch
from torch import Tensor

from planish.errors import InputError, Problem


def transform(weight: Tensor, norms: Tensor | None = None, *, n: int = 2, m: int = 4) -> Tensor:
    """`weight` (R, C) with the m - n smallest of every m neighbours of a row set to 0, of equal ones the first; scores are |w|, with `norms` (C,) |w_ij| ||x_j||.

    Raises InputError where m does not divide C, n is not below m, or norms are of another width.
    """
    if not 0 < n < m:
        raise InputError(Problem("nm_sparsity", f"{n} of {m} is no pattern", "n: 2, m: 4"))
    if weight.shape[1] % m:
        raise InputError(Problem("nm_sparsity", f"a width of {weight.shape[1]} is not divisible by {m}", "choose an m that divides it, or magnitude"))
    if norms is not None and norms.shape != weight.shape[1:]:
        raise InputError(Problem("nm_sparsity", f"there are {len(norms)} norms for {weight.shape[1]} columns", "calibrate the model that is pruned"))
    scores = weight.abs() if norms is None else weight.abs() * norms
    gone = torch.sort(scores.reshape(-1, m), dim=1, stable=True).indices[:, : m - n]
    return weight.reshape(-1, m).scatter(1, gone, 0).reshape(weight.shape)
