"""AWQ codes of 4 or 3 bits for transformers and vLLM: columns with large inputs are scaled up before rounding (arXiv 2306.00978)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.awq import search
from planish.model.awq_folds import FAMILIES, apply, folds
from planish.model.calibration_pass import Calibration, required
from planish.model.exported import FellBack, Quantised
from planish.model.packed import SCALES, Form
from planish.model.packed_checkpoint import Made, linear_weights, open_source, write
from planish.model.rtn import group_for, output_error, rtn

ZERO_POINTS = "zero points in compressed-tensors are not loaded by transformers 5.23.0 with compressed-tensors 0.19.0; layout: awq holds them"


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    *,
    bits: Literal[4, 3] = 4,
    group: int = 128,
    symmetric: bool = True,
    layout: Literal["compressed-tensors", "awq"] = "compressed-tensors",
) -> Quantised:
    """Write the checkpoint folder `<folder>/model-AWQ-<bits>bit`; the LoRA folder `adapter` is merged in fp32. Not `symmetric` gives every group a zero point of its own;
    compressed-tensors 0.19.0 under transformers 5.23.0 refused those when tried (we take it for the shapes of the zero points), the awq layout holds them.

    One decoder layer is in memory at a time. Raises InputError without calibration text, for a family whose scales have nowhere to go, 3 bits in the awq layout, weights that
    cannot be quantised or a group that divides nothing; RunFailed where nothing changed.
    """
    source, problems = open_source(checkpoint, adapter), []
    family = (source.config.get("architectures") or ["none"])[0]
    if family not in FAMILIES:
        problems.append(Problem(f"{checkpoint}/config.json: architectures", f"{family} is not known to AWQ here", "supported: " + ", ".join(FAMILIES)))
    if layout == "awq" and bits != 4:
        problems.append(Problem("awq.bits", f"the awq layout holds 4 bits, not {bits}", "choose layout: compressed-tensors"))
    if problems:
        raise InputError(*problems)
    grams, names = required(calibration, "awq"), linear_weights(source)
    form = Form(layout, bits, group_for((source.entries[name].shape[1] for name in names), group), symmetric)
    units = [[name for name in source.entries if name.startswith(f"model.layers.{index}.")] for index in range(source.layers)]
    shapes = {name: entry.shape for name, entry in source.entries.items()}
    fell_back: list[FellBack] = []
    errors = [0.0, 0.0]

    def make(given: dict[str, Tensor]) -> Made:
        layer = ".".join(next(iter(given)).split(".")[:3]) + "."
        found, alone = folds(layer, shapes)
        for name in alone:
            fell_back.append(FellBack(tensor=name, wanted="AWQ", written="RTN", why="no layer in front can take its scales: several heads share a value"))
            matrix = grams.of(name.removesuffix(".weight")).matrix
            error = output_error(given[name], rtn(given[name], bits, form.group, symmetric=symmetric, stored=SCALES).values(), matrix)
            errors[0], errors[1] = errors[0] + error, errors[1] + error
        scales = []
        for fold in found:
            inputs = grams.of(fold.readers[0].removesuffix(".weight"))
            best = search([given[name] for name in fold.readers], inputs, bits, form.group, symmetric=symmetric, stored=SCALES)
            errors[0], errors[1] = errors[0] + best.error, errors[1] + best.rtn_error
            scales.append(best.scales)
        tensors = dict(given)
        for fold, scale in zip(found, scales, strict=True):
            apply(fold, scale, tensors)
        return {name: rtn(value, bits, form.group, symmetric=symmetric, stored=SCALES) if name in quantised else value for name, value in tensors.items()}

    quantised = set(names)
    target = folder / f"model-AWQ-{bits}bit"
    done = write(target, checkpoint, source, units, names, make, form)
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
