"""A plain Hugging Face folder: sharded safetensors, configuration, tokenizer, chat template and generation settings, that transformers and vLLM load as it is."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.calibration_pass import Calibration
from planish.model.carried import carry
from planish.model.exported import Exported
from planish.model.packed_checkpoint import open_source
from planish.model.safetensors_header import BYTES
from planish.model.tensor_stream import PIECE, write_tensors
from planish.progress import Advance, Progress, Silent
from planish.store.objects import write_folder

NAMED_BY = "dtype"
"""The key that the file's name says."""
STORED = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
NAMED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""What config.json calls them."""


def check(checkpoint: Path, *, shard_gb: float = 5.0) -> None:
    """Raises InputError for weights that are codes already or not floating, and for files of no size or of any."""
    _refuse_size(shard_gb)
    open_source(checkpoint, None)


def _refuse_size(shard_gb: float) -> None:
    if not 0 < shard_gb < math.inf:
        raise InputError(Problem("shard_gb", f"is {shard_gb}, must be above 0 and finite", "5 is what the hub takes"))


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    *,
    dtype: Literal["source", "fp32", "fp16", "bf16"] = "source",
    shard_gb: float = 5.0,
) -> Exported:
    """Write the folder `<folder>/model-safetensors-<dtype>`, the LoRA folder `adapter` merged in fp32 and rounded once; files of at most `shard_gb` gigabytes and an index.

    `calibration` is not needed and never run. A piece of a tensor at a time is in memory, and the folder appears only complete. Raises InputError for weights that are
    quantised or not floating and for an adapter of another base, RunFailed for values that are not finite as `dtype`.
    """
    _refuse_size(shard_gb)
    source = open_source(checkpoint, adapter)
    layout = {name: (STORED.get(dtype, entry.dtype), entry.shape) for name, entry in source.entries.items()}
    types = Counter(kind for kind, _ in layout.values())
    target = folder / f"model-safetensors-{dtype}"

    def values(name: str, advance: Advance) -> Iterator[Tensor]:
        entry = source.entries[name]
        for start in range(0, entry.size, PIECE):
            yield source.read(name, start, min(start + PIECE, entry.size))
        advance(1)

    def fill(into: Path) -> None:
        with (progress or Silent()).bar(f"writing {target.name}", len(layout)) as advance:
            write_tensors(into, layout, lambda name: values(name, advance), shard=int(shard_gb * 10**9))
        told = {key: value for key, value in source.config.items() if key != "torch_dtype"} | {"dtype": NAMED[types.most_common(1)[0][0]]}
        (into / "config.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        carry(checkpoint, into)

    write_folder(target, fill)
    weights = sum(math.prod(shape) for _, shape in layout.values())
    data = sum(BYTES[kind] * math.prod(shape) for kind, shape in layout.values())
    files = len(list(target.glob("*.safetensors")))
    return Exported(
        file=target.name,
        bytes=sum(path.stat().st_size for path in target.glob("*.safetensors")),
        bits_per_weight=8 * data / weights,
        tensor_types=dict(types.most_common()),
        fell_back=(),
        notes=(f"{files} files",) if files > 1 else (),
    )
