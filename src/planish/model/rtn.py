"""Round to nearest: whole-number codes with one scale for each group of weights in a row, and the grids that GPTQ and AWQ round to as well (MISSION Z1)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from planish.errors import InputError, Problem

GROUPS = (128, 64, 32)


@dataclass(frozen=True)
class Grid:
    """The values that a matrix (O, D) may take: scale * (code - zero), code in [-2^(b-1), 2^(b-1) - 1]; scale (O, groups) fp32, zero (O, groups) int, 0 where symmetric."""

    scale: Tensor
    zero: Tensor
    bits: int

    def codes(self, weight: Tensor, groups: Tensor | slice) -> Tensor:
        """The nearest codes of columns (O, C), whose groups are `groups` of this grid: (O, C) int32."""
        scale, zero = self.scale[:, groups], self.zero[:, groups]
        half = 2 ** (self.bits - 1)
        return (torch.round(weight / scale).to(torch.int32) + zero).clamp_(-half, half - 1)

    def values(self, codes: Tensor, groups: Tensor | slice) -> Tensor:
        """What codes (O, C) stand for, fp32."""
        return (codes - self.zero[:, groups]) * self.scale[:, groups]


@dataclass(frozen=True)
class Coded:
    """A quantised matrix: codes (O, D) int32 on a grid whose group `group_of[d]` column d belongs to."""

    codes: Tensor
    grid: Grid
    group: int

    @property
    def group_of(self) -> Tensor:
        """(D,) the group of each column."""
        return torch.arange(self.codes.shape[1]) // self.group

    def values(self) -> Tensor:
        """(O, D) fp32: the matrix that a runtime computes with."""
        return self.grid.values(self.codes, self.group_of)


def grid(weight: Tensor, bits: int, group: int, *, symmetric: bool = True, stored: torch.dtype = torch.float32) -> Grid:
    """The grid of each group of `group` columns of weight (O, D): s = max|w| / (2^(b-1) - 1), or where not symmetric (max - min) / (2^b - 1) with a whole-number zero.

    Scales are rounded to the dtype in which they will be `stored`, before anything is rounded to them. A group of zeros has scale 1.
    """
    rows, columns = weight.shape
    cells = weight.reshape(rows, columns // group, group)
    if symmetric:
        scale = cells.abs().amax(-1) / (2 ** (bits - 1) - 1)
    else:
        low, high = cells.amin(-1).clamp_max(0), cells.amax(-1).clamp_min(0)
        scale = (high - low) / (2**bits - 1)
    scale = scale.to(stored).float()
    scale = torch.where(scale == 0, 1.0, scale)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    if not symmetric:
        half = 2 ** (bits - 1)
        zero = (torch.round(-low / scale).to(torch.int32) - half).clamp_(-half, half - 1)
    return Grid(scale, zero, bits)


def rtn(weight: Tensor, bits: int, group: int, *, symmetric: bool = True, stored: torch.dtype = torch.float32) -> Coded:
    """weight (O, D) rounded to nearest, group by group; `group` divides D."""
    found = grid(weight, bits, group, symmetric=symmetric, stored=stored)
    return Coded(found.codes(weight, torch.arange(weight.shape[1]) // group), found, group)


def group_for(widths: Iterable[int], wanted: int) -> int:
    """The columns that share a scale: `wanted`, else the largest of 128, 64, 32 below it that divides every width. Raises InputError where none does, and for
    fewer columns than one."""
    if wanted < 1:
        raise InputError(Problem("group", f"is {wanted}, must be 1 column or more", "choose 128, 64 or 32"))
    asked = sorted(set(widths))
    tried = (wanted, *(size for size in GROUPS if size < wanted))
    for size in tried:
        if not any(width % size for width in asked):
            return size
    shown = " or ".join([", ".join(map(str, tried[:-1])), str(tried[-1])] if len(tried) > 1 else [str(wanted)])
    fix = f"name a group size that divides them all, as what divides {math.gcd(*asked)} does"
    raise InputError(Problem("group", f"no group of {shown} columns divides the widths {asked}", fix if math.gcd(*asked) > 1 else "no other group does either"))


def output_error(weight: Tensor, quantised: Tensor, gram: Tensor) -> float:
    """||(W' - W) X||^2 = tr(dW G dW^T): the squared error of the layer's outputs over the calibration text, without the text."""
    change = quantised - weight
    return float(((change @ gram) * change).sum(dtype=torch.float64))
