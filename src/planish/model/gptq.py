"""GPTQ: columns rounded one after the other, each one's error made good by the columns that are still to come (arXiv 2210.17323; MISSION Z4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from planish.model.clipping import by_column, fitted
from planish.model.rtn import Coded, Grid, rtn

BLOCK = 128
"""Columns after which the columns behind them are told of the errors so far, in one matrix product."""
MORE = (1, 10, 100)
"""Times the damping asked for that are tried, one after the other, on a Hessian that is singular."""


class Solved(NamedTuple):
    """A quantised matrix and the damping that its Hessian took, as a share of the mean diagonal; None: no damping helped, and it was rounded to nearest."""

    coded: Coded
    damping: float | None


def gptq(
    weight: Tensor,
    gram: Tensor,
    bits: int,
    group: int,
    *,
    damping: float = 0.01,
    act_order: bool = False,
    symmetric: bool = True,
    stored: torch.dtype = torch.float32,
) -> Solved:
    """weight (O, D) quantised for inputs of this Gram (D, D), with the Hessian 2 G + damping * mean diagonal.

    Rows do not see each other: matrices that read one input may be stacked and share the work. `act_order` takes the columns with the largest inputs first, on grids fitted to the
    original weights, so that the file needs no order of its own; without it a group's grid is fitted to its weights when their turn comes. What an error costs there is what the
    columns still to come cannot make good: e^2 Hinv_ii = (w - q)^2 / Hinv_ii.
    """
    order = torch.argsort(gram.diagonal(), descending=True, stable=True) if act_order else torch.arange(weight.shape[1])
    found = factor(2 * gram[order][:, order], damping)
    if found is None:
        return Solved(rtn(weight, bits, group, symmetric=symmetric, stored=stored), None)
    upper, damped = found
    cost = torch.empty_like(gram[0])
    cost[order] = upper.diagonal() ** -2
    grids = fitted(weight, by_column(cost), bits, group, symmetric=symmetric, stored=stored)

    def code(columns: Tensor, position: int, current: Tensor) -> Tensor:
        of = int(order[position]) // group
        if not act_order and position % group == 0:
            here = fitted(current, by_column(cost[position : position + group]), bits, group, symmetric=symmetric, stored=stored)
            grids.scale[:, of], grids.zero[:, of] = here.scale[:, 0], here.zero[:, 0]
        return grids.codes(columns, slice(of, of + 1))

    codes = torch.empty_like(weight, dtype=torch.int32)
    codes[:, order] = rounded(weight[:, order].clone(), upper, code, lambda codes, position: _values(grids, codes, int(order[position]) // group), group)
    return Solved(Coded(codes, grids, group), damped)


def factor(hessian: Tensor, damping: float) -> tuple[Tensor, float] | None:
    """(D, D) upper Cholesky factor of the inverse of the damped Hessian, and the damping that it took; None where it stays singular.

    Row i of the factor, divided by its diagonal, is what the elimination of the columns before i leaves of row i of the inverse: Hinv_ij / Hinv_ii.
    """
    mean = hessian.diagonal().mean()
    for times in MORE:
        share = damping * times
        damped = hessian + share * mean * torch.eye(len(hessian), dtype=hessian.dtype)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not int(failed) and bool(torch.isfinite(upper).all()):
            return upper, share
    return None


def rounded(weight: Tensor, upper: Tensor, code: Callable[[Tensor, int, Tensor], Tensor], value: Callable[[Tensor, int], Tensor], reach: int) -> Tensor:
    """(O, D) int32 codes of weight (O, D), which is used up: e = (w - q) / Hinv_ii, then w_j -= e Hinv_ij for every later column j.

    `code(column, i, coming)` rounds column i (O, 1) and is shown the `reach` columns from it on as they stand; `value(codes, i)` is what its codes stand for.
    """
    columns = weight.shape[1]
    codes = torch.empty_like(weight, dtype=torch.int32)
    step = reach * -(-BLOCK // reach)  # whole groups, so that a group's columns have heard of all errors before them
    for start in range(0, columns, step):
        stop = min(columns, start + step)
        errors = torch.empty(weight.shape[0], stop - start, dtype=weight.dtype)
        for i in range(start, stop):
            column = weight[:, i : i + 1]
            codes[:, i : i + 1] = found = code(column, i, weight[:, i : i + reach])
            error = (column - value(found, i)) / upper[i, i]
            errors[:, i - start : i - start + 1] = error
            weight[:, i + 1 : stop].addmm_(error, upper[i : i + 1, i + 1 : stop], alpha=-1)
        weight[:, stop:].addmm_(errors, upper[start:stop, stop:], alpha=-1)
    return codes


def _values(grids: Grid, codes: Tensor, group: int) -> Tensor:
    return grids.values(codes, slice(group, group + 1))
