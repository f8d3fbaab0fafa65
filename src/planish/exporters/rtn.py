"""Codes of 4 or 3 bits rounded to nearest, no calibration, for transformers and vLLM: what GPTQ and AWQ must beat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from planish.model.calibration_pass import Calibration
from planish.model.exported import Quantised
from planish.model.packed import SCALES, Form
from planish.model.packed_checkpoint import Made, linear_weights, open_source, refuse_shapes, write
from planish.model.rtn import group_for, rtn
from planish.progress import Progress

NAMED_BY = "bits"
"""The key that the file's name says."""


def fits(
    shapes: Mapping[str, tuple[int, ...]], *, bits: Literal[4, 3] = 4, group: int = 128, layout: Literal["compressed-tensors", "gptq"] = "compressed-tensors"
) -> None:
    """Raises InputError for tensors of a checkpoint, by name, that `export` could not put in codes."""
    refuse_shapes(shapes, layout, bits, group)


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    *,
    bits: Literal[4, 3] = 4,
    group: int = 128,
    layout: Literal["compressed-tensors", "gptq"] = "compressed-tensors",
) -> Quantised:
    """Write the checkpoint folder `<folder>/model-RTN-<bits>bit`; the LoRA folder `adapter` is merged in fp32. `calibration` is not needed and never run.

    One matrix at a time is in memory. Raises InputError for weights that cannot be quantised or a group that divides nothing, RunFailed where nothing changed.
    """
    source = open_source(checkpoint, adapter)
    names = linear_weights(source)
    form = Form(layout, bits, group_for((source.entries[name].shape[1] for name in names), group), symmetric=True)

    def make(given: dict[str, Tensor]) -> Made:
        return {name: rtn(weight, bits, form.group, stored=SCALES) for name, weight in given.items()}

    target = folder / f"model-RTN-{bits}bit"
    done = write(target, checkpoint, source, [[name] for name in names], names, make, form, progress)
    notes = (f"groups of {form.group}, not {group}: the widths are no multiples of it",) if form.group != group else ()
    return Quantised(
        file=target.name,
        bytes=done.bytes,
        bits_per_weight=done.bits,
        tensor_types=done.types,
        fell_back=(),
        notes=notes,
        changed=done.changed,
        output_error=None,
    )
