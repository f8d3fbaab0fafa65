"""A GGUF file back as the plain checkpoint that its blocks stand for, so that its predictions can be held against the original's (MISSION Z6)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.cut_folder import CARRIED
from planish.model.ggml import GgmlType, row_bytes
from planish.model.gguf_header import GgufTensor, read_tensors
from planish.model.gguf_lora import adapter_beside, differences
from planish.model.gguf_types import BASE, SMALLER_BLOCKS
from planish.model.llama_weights import LlamaWeights
from planish.model.tensor_stream import write_tensors
from planish.store.objects import write_folder

READ = {GgmlType.F32, *BASE.values(), *SMALLER_BLOCKS.values()}
"""What the exporter writes: other types of the same size would be other values."""


def plain_folder(file: Path, checkpoint: Path, target: Path) -> Path:
    """Write to `target`, in fp32, the weights of the GGUF `file` that was made of `checkpoint`, whose configuration and names they take.

    Raises InputError for a file that is not sound, lacks a tensor of the checkpoint, or has one more or in another shape.
    """
    names, held = LlamaWeights(checkpoint), read_tensors(file)
    refuse_others(file, names, held)
    beside = adapter_beside(file)
    added = differences(beside, names) if beside.is_file() else {}
    layout = {names.source_name(name): ("F32", shape) for name, shape in names.shapes.items() if name not in names.made}
    of = {names.source_name(name): name for name in names.shapes if name not in names.made}

    def values(key: str) -> Iterator[Tensor]:
        data = dequantised(file, of[key], held[of[key]]).reshape(layout[key][1])
        plain = names.restored(key, data)
        yield (plain + added[key] if key in added else plain).reshape(-1)

    def fill(folder: Path) -> None:
        write_tensors(folder, layout, values)
        (folder / "config.json").write_text(json.dumps(names.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in CARRIED:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, folder / name)

    return write_folder(target, fill)


def dequantised(file: Path, name: str, tensor: GgufTensor) -> Tensor:
    """The values of one tensor, fp32 in its shape. Raises InputError for a type that no exporter here writes."""
    refuse_type(file, name, tensor)
    raw = np.memmap(file, np.uint8, "r", tensor.start, (tensor.bytes,)).reshape(-1, row_bytes(tensor.kind, tensor.shape[-1]))
    values = np.array(gguf.quants.dequantize(raw, tensor.kind), dtype=np.float32)
    return torch.from_numpy(values).reshape(tensor.shape)


def refuse_type(file: Path, name: str, tensor: GgufTensor) -> None:
    """Raises InputError for a type that no exporter here writes."""
    if tensor.kind not in READ:
        raise InputError(Problem(f"{file}: {name}", f"is {tensor.kind.name}, which no exporter here writes", "export the file again"))


def refuse_others(file: Path, names: LlamaWeights, held: Mapping[str, GgufTensor]) -> None:
    """Raises InputError where the file's tensors are not those of the checkpoint, by name and shape."""
    told = {name: tensor.shape for name, tensor in held.items()}
    apart = sorted(name for name in told.keys() | names.shapes.keys() if told.get(name) != names.shapes.get(name))
    if apart:
        why = f"has the shape {told.get(apart[0])}, the checkpoint's {names.shapes.get(apart[0])}"
        raise InputError(Problem(f"{file}: {apart[0]}", why, "give the checkpoint that this file was made of"))
