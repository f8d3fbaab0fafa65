"""Parents for merges: copies of the tiny model whose weights are moved a little, or not so little."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Move = Callable[[str, Tensor], Tensor]


def tuned(base: Path, folder: Path, seed: int, size: float = 0.01, move: Move | None = None, **config: Any) -> Path:
    """A copy of `base` with noise of `size` on every weight, then `move` over each, then keys of config.json changed."""
    shutil.copytree(base, folder)
    draw = torch.Generator().manual_seed(seed)
    weights = {
        name: tensor + size * torch.randn(tensor.shape, generator=draw).to(tensor.dtype) for name, tensor in load_file(base / "model.safetensors").items()
    }
    if move is not None:
        weights = {name: move(name, tensor).contiguous() for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if config:
        read = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(read | config), encoding="utf-8")
    return folder


@pytest.fixture
def family(tiny: Path, tmp_path: Path) -> Path:
    """A folder with `base` and its tuned models `a` and `b`."""
    shutil.copytree(tiny, tmp_path / "family" / "base")
    for seed, name in enumerate("ab", start=1):
        tuned(tiny, tmp_path / "family" / name, seed)
    return tmp_path / "family"
