"""An ONNX graph with a key-value cache for onnxruntime: fp32, or weights in blocks of 8 or 4 bits; tokenizer, template and configuration beside it."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from planish.errors import InputError, Problem, RunFailed
from planish.lazy import require
from planish.model import onnx_weights
from planish.model.calibration_pass import Calibration, required
from planish.model.cut_folder import CARRIED
from planish.model.exported import Exported, FellBack, Quantised
from planish.model.gptq import gptq as gptq_codes
from planish.model.onnx_decoder import read_decoder
from planish.model.onnx_graph import build
from planish.model.onnx_session import GRAPH
from planish.model.onnx_weights import DATA, Weight
from planish.model.packed_checkpoint import open_source
from planish.model.rtn import Coded
from planish.progress import Progress, Silent
from planish.store.objects import write_folder

NAMED_BY = "precision"
"""The key that the file's name says."""
BITS = {"fp32": 32, "int8": 8, "int4": 4}


def check(checkpoint: Path, *, precision: Literal["fp32", "int8", "int4"] = "int8", gptq: bool = False) -> None:
    """Raises InputError for a family, scaling or weights that no graph is built of, and for options that exclude each other; MissingExtra without onnx."""
    _refuse_words(precision, gptq)
    require("onnx", extra="onnx")
    read_decoder(checkpoint).check(open_source(checkpoint, None).entries, checkpoint)


def fits(shapes: Mapping[str, tuple[int, ...]], *, precision: Literal["fp32", "int8", "int4"] = "int8", block: Literal[16, 32, 64, 128] = 32) -> None:
    """Raises InputError for tensors of a checkpoint, by name, whose rows are no whole number of blocks."""
    odd = sorted({shape[1] for shape in shapes.values() if len(shape) == 2 and shape[1] % block})
    if precision != "fp32" and odd:
        raise InputError(Problem("block", f"{block} does not divide rows of {odd} columns", "choose 16, or precision: fp32"))


def _refuse_words(precision: str, gptq: bool) -> None:
    if gptq and precision != "int4":
        raise InputError(Problem("gptq", f"is for codes of 4 bits, not {precision}", "choose precision: int4, or leave gptq out"))


def reads_matrices(*, gptq: bool = False) -> bool:
    """Of the calibration it reads whole matrices where it runs GPTQ, and else nothing."""
    return gptq


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    *,
    precision: Literal["fp32", "int8", "int4"] = "int8",
    block: Literal[16, 32, 64, 128] = 32,
    gptq: bool = False,
) -> Exported:
    """Write the folder `<folder>/model-ONNX-<precision>`; the LoRA folder `adapter` is merged in fp32. `gptq` lets the columns after each one make good its
    rounding to 4 bits, on `calibration`, which otherwise is not needed and never run.

    `block` weights of a row share a scale; with int4 the embedding and the output matrix have 8 bits. A few rows of one tensor are in memory at a time, nothing is written twice,
    and the folder appears whole or not at all. Raises InputError for a family, scaling or weights that no graph is built of; RunFailed where codes changed nothing.
    """
    _refuse_words(precision, gptq)
    grams = required(calibration, "onnx with gptq") if gptq else None
    decoder, source = read_decoder(checkpoint), open_source(checkpoint, adapter)
    decoder.check(source.entries, checkpoint)
    weights = onnx_weights.plan(decoder, BITS[precision], block)
    graph = build(decoder, weights, block).SerializeToString(deterministic=True)
    target = folder / f"model-ONNX-{precision}"
    moved = [0.0, 0.0]
    fell_back: list[FellBack] = []

    def solved(name: str, values: Tensor) -> Coded:
        assert grams is not None
        layer = name.removesuffix(".weight")
        if layer not in grams.inputs:
            fell_back.append(FellBack(tensor=name, wanted="GPTQ", written="RTN", why="no calibration text came through it"))
            return onnx_weights.coded(values, 4, block)
        found = gptq_codes(values, grams.of(layer).matrix, 4, block, act_order=True, symmetric=False)
        if found.damping is None:
            fell_back.append(FellBack(tensor=name, wanted="GPTQ", written="RTN", why="its Hessian is singular whatever the damping"))
        return found.coded

    def fill(partial: Path) -> None:
        with (progress or Silent()).bar(f"writing {target.name}", len(weights)) as advance:
            moved[:] = onnx_weights.write(partial / DATA, source, weights.values(), block, solved if gptq else None, advance)
        if precision != "fp32" and moved[0] == 0:
            raise RunFailed(Problem(target.name, "no weight was changed: the compressor did nothing", "give the original weights"))
        (partial / GRAPH).write_bytes(graph)
        (partial / "config.json").write_text(json.dumps(source.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in CARRIED:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, partial / name)

    write_folder(target, fill)
    values = sum(math.prod(weight.shape) for weight in weights.values())
    written = Exported(
        file=target.name,
        bytes=len(graph) + onnx_weights.size(weights.values()),
        bits_per_weight=8 * sum(one.bytes for weight in weights.values() for one in weight.stored) / values,
        tensor_types=dict(Counter(_kind(weight, block) for weight in weights.values()).most_common()),
        fell_back=tuple(fell_back),
        notes=(grams.warning,) if grams is not None and grams.warning else (),
    )
    return written if precision == "fp32" else Quantised(**written.model_dump(), changed=(moved[0] / moved[1]) ** 0.5)


def _kind(weight: Weight, block: int) -> str:
    return "F32" if weight.bits == 32 else f"int{weight.bits} block {block}"
