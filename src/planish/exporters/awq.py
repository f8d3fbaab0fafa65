"""AWQ codes of 4 or 3 bits for transformers and vLLM: columns with large inputs are scaled up before rounding, large weights cut (arXiv 2306.00978)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.awq import clipped, search
from planish.model.awq_folds import FAMILIES, apply, folds
from planish.model.calibration_pass import Calibration, required
from planish.model.exported import FellBack, Quantised
from planish.model.gram import Gram
from planish.model.json_object import read_json
from planish.model.packed import SCALES, Form
from planish.model.packed_checkpoint import Made, linear_weights, open_source, refuse_shapes, write
from planish.model.rtn import Coded, group_for, output_error, rtn
from planish.progress import Progress

NAMED_BY = "bits"
"""The key that the file's name says."""
ZERO_POINTS = "zero points in compressed-tensors are loaded by transformers 5.17.0 and refused by 5.23.0, those of other writers too; layout: awq holds them"


def check(checkpoint: Path) -> None:
    """Raises InputError for a family whose scales have nowhere to go."""
    _refuse_family(read_json(checkpoint / "config.json"), checkpoint)


def _refuse_family(config: Mapping[str, Any], checkpoint: Path) -> None:
    family = (config.get("architectures") or ["none"])[0]
    if family not in FAMILIES:
        raise InputError(Problem(f"{checkpoint}/config.json: architectures", f"{family} is not known to AWQ here", "supported: " + ", ".join(FAMILIES)))


def _refuse_words(layout: str, bits: int) -> None:
    if layout == "awq" and bits != 4:
        raise InputError(Problem("awq.bits", f"the awq layout holds 4 bits, not {bits}", "choose layout: compressed-tensors"))


def fits(
    shapes: Mapping[str, tuple[int, ...]], *, bits: Literal[4, 3] = 4, group: int = 128, layout: Literal["compressed-tensors", "awq"] = "compressed-tensors"
) -> None:
    """Raises InputError for tensors of a checkpoint, by name, that `export` could not put in codes."""
    _refuse_words(layout, bits)
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
    symmetric: bool = True,
    layout: Literal["compressed-tensors", "awq"] = "compressed-tensors",
) -> Quantised:
    """Write the checkpoint folder `<folder>/model-AWQ-<bits>bit`; the LoRA folder `adapter` is merged in fp32. Not `symmetric` gives every group a zero point of its own:
    nearer at 4 bits, and in the compressed-tensors layout refused by transformers 5.23.0 when tried, as llmcompressor's are; 5.17.0 loaded both.

    One decoder layer is in memory at a time. Raises InputError without calibration text, for a family whose scales have nowhere to go, 3 bits in the awq layout, weights that
    cannot be quantised or a group that divides nothing; RunFailed where nothing changed.
    """
    source = open_source(checkpoint, adapter)
    _refuse_family(source.config, checkpoint)
    _refuse_words(layout, bits)
    grams, names = required(calibration, "awq"), linear_weights(source)
    form = Form(layout, bits, group_for((source.entries[name].shape[1] for name in names), group), symmetric)
    units = [[name for name in source.entries if name.startswith(f"model.layers.{index}.")] for index in range(source.layers)]
    shapes = {name: entry.shape for name, entry in source.entries.items()}
    fell_back: list[FellBack] = []
    errors = [0.0, 0.0]

    def inputs(name: str) -> Gram:
        return grams.of(name.removesuffix(".weight"))

    def make(given: dict[str, Tensor]) -> Made:
        layer = ".".join(next(iter(given)).split(".")[:3]) + "."
        found, alone = folds(layer, shapes)
        tensors = dict(given)
        columns, rows = dict[str, Tensor](), dict[str, Tensor]()
        for fold in found:
            best = search([given[name] for name in fold.readers], inputs(fold.readers[0]), bits, form.group, symmetric=symmetric, stored=SCALES)
            errors[1] += best.rtn_error
            apply(fold, best.scales, tensors)
            columns, rows = columns | dict.fromkeys(fold.readers, best.scales), rows | {fold.writer: best.scales}
        for name in alone:
            fell_back.append(FellBack(tensor=name, wanted="AWQ", written="RTN", why="no layer in front can take its scales: several heads share a value"))
            errors[1] += output_error(given[name], rtn(given[name], bits, form.group, symmetric=symmetric, stored=SCALES).values(), inputs(name).matrix)
        made: dict[str, Coded | Tensor] = {**tensors}
        for name in (name for name in tensors if name in quantised):
            weight, scales = tensors[name], columns.get(name, torch.ones(shapes[name][1]))
            matrix = inputs(name).matrix / scales / scales[:, None]
            made[name] = coded = clipped(weight, matrix, bits, form.group, symmetric=symmetric, stored=SCALES)
            outputs = rows.get(name, torch.ones(len(weight)))[:, None]  # as large as they were: what reads them expects them smaller
            errors[0] += output_error(weight * outputs, coded.values() * outputs, matrix)
        return made

    quantised = set(names)
    target = folder / f"model-AWQ-{bits}bit"
    done = write(target, checkpoint, source, units, names, make, form, progress)
    notes = [f"groups of {form.group}, not {group}: the widths are no multiples of it"] if form.group != group else []
    notes += [ZERO_POINTS] if layout == "compressed-tensors" and not symmetric else []
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
