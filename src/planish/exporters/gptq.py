"""GPTQ codes of 4 or 3 bits for transformers and vLLM: each column's rounding error is made good by the columns after it (arXiv 2210.17323)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.calibration_pass import Calibration, required
from planish.model.exported import FellBack, Quantised
from planish.model.gptq import gptq
from planish.model.gram import Grams
from planish.model.packed import SCALES, Form
from planish.model.packed_checkpoint import Made, linear_weights, open_source, refuse_shapes, write
from planish.model.rtn import Coded, Grid, group_for, output_error, rtn
from planish.progress import Progress

NAMED_BY = "bits"
"""The key that the file's name says."""


def check(checkpoint: Path, *, damping: float = 0.01) -> None:
    """Raises InputError for a damping that lifts no Hessian, and for weights that are codes already or not floating."""
    _refuse_damping(damping)
    open_source(checkpoint, None)


def _refuse_damping(damping: float) -> None:
    if not 0 < damping < math.inf:
        raise InputError(Problem("damping", f"is {damping}, must be a number above 0", "0.01 is what the paper takes"))


def fits(
    shapes: Mapping[str, tuple[int, ...]], *, bits: Literal[4, 3] = 4, group: int = 128, layout: Literal["compressed-tensors", "gptq"] = "compressed-tensors"
) -> None:
    """Raises InputError for tensors of a checkpoint, by name, that `export` could not put in codes."""
    refuse_shapes(shapes, layout, bits, group)


def reads_matrices() -> bool:
    """Of the calibration it reads whole matrices."""
    return True


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    *,
    bits: Literal[4, 3] = 4,
    group: int = 128,
    act_order: bool = True,
    damping: float = 0.01,
    layout: Literal["compressed-tensors", "gptq"] = "compressed-tensors",
) -> Quantised:
    """Write the checkpoint folder `<folder>/model-GPTQ-<bits>bit`; the LoRA folder `adapter` is merged in fp32.

    The matrices that read one input are in memory at a time, and share one factorisation. Raises InputError without calibration text, for weights that cannot be quantised or a
    group that divides nothing, for a damping of 0 or less; RunFailed where nothing changed.
    """
    _refuse_damping(damping)
    grams, source = required(calibration, "gptq"), open_source(checkpoint, adapter)
    names = linear_weights(source)
    form = Form(layout, bits, group_for((source.entries[name].shape[1] for name in names), group), symmetric=True, act_order=act_order)
    fell_back: list[FellBack] = []
    errors = [0.0, 0.0]

    def make(given: dict[str, Tensor]) -> Made:
        if next(iter(given)).removesuffix(".weight") not in grams.inputs:
            fell_back.extend(_rounded(name, "no calibration text came through it") for name in given)
            return {name: rtn(weight, bits, form.group, stored=SCALES) for name, weight in given.items()}
        matrix = grams.of(next(iter(given)).removesuffix(".weight")).matrix
        stacked = torch.cat(list(given.values()))
        solved = gptq(stacked, matrix, bits, form.group, damping=damping, act_order=act_order, stored=SCALES)
        if solved.damping is None:
            fell_back.extend(_rounded(name, "its Hessian is singular whatever the damping") for name in given)
        errors[0] += output_error(stacked, solved.coded.values(), matrix)
        errors[1] += output_error(stacked, rtn(stacked, bits, form.group, stored=SCALES).values(), matrix)
        return dict(zip(given, _apart(solved.coded, [len(weight) for weight in given.values()]), strict=True))

    target = folder / f"model-GPTQ-{bits}bit"
    done = write(target, checkpoint, source, _units(names, grams), names, make, form, progress)
    notes = [f"groups of {form.group}, not {group}: the widths are no multiples of it"] if form.group != group else []
    return Quantised(
        file=target.name,
        bytes=done.bytes,
        bits_per_weight=done.bits,
        tensor_types=done.types,
        fell_back=tuple(fell_back),
        notes=(*notes, *([grams.warning] if grams.warning else [])),
        changed=done.changed,
        output_error=(errors[0] / errors[1]) ** 0.5 if errors[1] else None,
    )


def _rounded(name: str, why: str) -> FellBack:
    return FellBack(tensor=name, wanted="GPTQ", written="RTN", why=why)


def _units(names: list[str], grams: Grams) -> list[list[str]]:
    """The weights that read one input together, in the order of the file."""
    found: dict[str, list[str]] = {}
    for name in names:
        layer = name.removesuffix(".weight")
        found.setdefault(grams.inputs.get(layer, layer), []).append(name)
    return list(found.values())


def _apart(stacked: Coded, rows: list[int]) -> list[Coded]:
    grid = stacked.grid
    parts = zip(stacked.codes.split(rows), grid.scale.split(rows), grid.zero.split(rows), strict=True)
    return [Coded(codes, Grid(scale, zero, grid.bits), stacked.group) for codes, scale, zero in parts]
