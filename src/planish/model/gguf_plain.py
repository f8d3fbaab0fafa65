"""A GGUF file back as the plain checkpoint that its blocks stand for, so that its predictions can be held against the original's (MISSION Z6)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from planish.model.cut_folder import CARRIED
from planish.model.llama_weights import ROPE_FREQS, LlamaWeights
from planish.model.tensor_stream import write_tensors
from planish.store.objects import write_folder


def plain_folder(file: Path, checkpoint: Path, target: Path) -> Path:
    """Write to `target`, in fp32, the weights of the GGUF `file` that was made of `checkpoint`, whose configuration and names they take."""
    names = LlamaWeights(checkpoint)
    held: dict[str, Any] = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    layout = {names.source_name(name): ("F32", shape) for name, shape in names.shapes.items() if name != ROPE_FREQS}
    of = {names.source_name(name): name for name in names.shapes if name != ROPE_FREQS}

    def values(key: str) -> Iterator[Tensor]:
        tensor = held[of[key]]
        data = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(layout[key][1])
        yield names.restored(key, torch.from_numpy(data.copy())).reshape(-1)

    def fill(folder: Path) -> None:
        write_tensors(folder, layout, values)
        (folder / "config.json").write_text(json.dumps(names.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in CARRIED:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, folder / name)

    return write_folder(target, fill)
