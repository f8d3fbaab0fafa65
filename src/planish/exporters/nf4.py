"""NF4, the 4 bits of QLoRA, as a checkpoint that transformers loads with bitsandbytes: no calibration, half a byte a weight."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from planish.errors import Problem, RunFailed
from planish.lazy import require
from planish.model.calibration_pass import Calibration
from planish.model.carried import carry
from planish.model.exported import Quantised
from planish.model.nf4 import coded, shapes
from planish.model.packed_checkpoint import linear_weights, matrix, open_source
from planish.model.safetensors_header import BYTES
from planish.model.tensor_stream import write_tensors
from planish.progress import Advance, Progress, Silent
from planish.store.objects import write_folder

NAMED_BY = ""
"""No key: the file's name is always the same."""


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    *,
    double: bool = True,
) -> Quantised:
    """Write the checkpoint folder `<folder>/model-NF4`; the LoRA folder `adapter` is merged in fp32 before a weight is rounded. `double`: the scales are quantised too (4.127
    bits a weight, else 4.5). `calibration` is not needed and never run.

    The matrices inside the layers are put in codes by bitsandbytes itself, one at a time; embeddings, norms and the LM head stay. Raises InputError for weights that cannot be
    quantised, MissingExtra without bitsandbytes, RunFailed where nothing changed.
    """
    require("bitsandbytes", extra="4bit")
    source = open_source(checkpoint, adapter)
    names = linear_weights(source)
    layout = {name: (entry.dtype, entry.shape) for name, entry in source.entries.items() if name not in names}
    owner: dict[str, tuple[str, str]] = {}
    for name in names:
        rows, columns = source.entries[name].shape
        parts = {(f"{name}.{end}" if end else name): (end, kind) for end, kind in shapes(rows, columns, double).items()}
        layout |= {part: kind for part, (_, kind) in parts.items()}
        owner |= {part: (name, end) for part, (end, _) in parts.items()}
    sums = [0.0, 0.0]
    held: dict[str, dict[str, Tensor]] = {}

    def values(part: str, advance: Advance) -> Iterator[Tensor]:
        if part not in owner:
            yield matrix(source, part).reshape(-1)
            return
        name, end = owner[part]
        if name not in held:
            held.clear()
            weight = matrix(source, name)
            held[name], back = coded(weight, double)
            sums[0] += float((back - weight).square().sum(dtype=torch.float64))
            sums[1] += float(weight.square().sum(dtype=torch.float64))
            advance(1)
        yield held[name][end].reshape(-1)

    target = folder / "model-NF4"

    def fill(into: Path) -> None:
        with (progress or Silent()).bar(f"writing {target.name}", len(names)) as advance:
            write_tensors(into, layout, lambda part: values(part, advance))
        if sums[0] == 0:
            raise RunFailed(Problem(target.name, "no weight was changed: the compressor did nothing", "give the original weights"))
        told = {**source.config, "quantization_config": quantization_config(double)}
        (into / "config.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        carry(checkpoint, into)

    write_folder(target, fill)
    weights = sum(entry.size for entry in source.entries.values())
    data = sum(BYTES[kind] * math.prod(shape) for kind, shape in layout.values())
    plain = Counter(kind for part, (kind, _) in layout.items() if part not in owner)
    return Quantised(
        file=target.name,
        bytes=sum(path.stat().st_size for path in target.glob("*.safetensors")),
        bits_per_weight=8 * data / weights,
        tensor_types={"nf4 group 64": len(names), **dict(plain.most_common())},
        fell_back=(),
        changed=(sums[0] / sums[1]) ** 0.5,
    )


def check(checkpoint: Path) -> None:
    """Raises InputError for weights that are codes already or not floating, MissingExtra without bitsandbytes."""
    require("bitsandbytes", extra="4bit")
    open_source(checkpoint, None)


def quantization_config(double: bool) -> dict[str, object]:
    """What transformers reads the folder by; it computes in fp32 unless told another dtype."""
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
    }
