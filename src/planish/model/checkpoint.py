"""Training checkpoints: complete or absent, safetensors and JSON only, and enough in them that a resumed CPU run is bit-identical (MISSION T10)."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from planish.rows import content_hash
from planish.store.objects import file_hash, write_folder

MANIFEST = "manifest.json"
KEEP = 2


@dataclass(frozen=True)
class Position:
    """How far a run has come: the next step, tokens seen, and the tail of the figures that later ones are made of."""

    step: int
    tokens: int
    best: float | None = None
    best_step: int | None = None


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position, meaning: dict[str, Any]) -> Path:
    """Write `folder/step-N`; keep the last two. `meaning` is what the run is (base, data, options): a checkpoint of another run is refused on resume."""
    state = optimizer.state_dict()["state"]
    moments = {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items() if isinstance(value, Tensor)}

    def fill(partial: Path) -> None:
        save_file({name: parameter.detach().contiguous() for name, parameter in trainable(model).items()}, partial / "weights.safetensors")
        save_file(moments, partial / "optimizer.safetensors")
        save_file({"cpu": torch.get_rng_state()}, partial / "random.safetensors")
        files = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
        manifest = {"position": vars(position), "meaning": meaning, "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, sort_keys=True), encoding="utf-8")

    final = write_folder(folder / f"step-{position.step:08d}", fill)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    return final


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all there and unchanged; a damaged one is passed over for the one before."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            manifest = json.loads((candidate / MANIFEST).read_text(encoding="utf-8"))
            if all(file_hash(candidate / name) == digest for name, digest in manifest["files"].items()):
                return candidate
        except (OSError, ValueError, KeyError):
            continue
    return None


def load(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, meaning: dict[str, Any]) -> Position | None:
    """Put a checkpoint into model, optimizer and random state. None when it belongs to another run."""
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    if content_hash(manifest["meaning"]) != content_hash(meaning):
        return None
    weights = load_file(checkpoint / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(weights[name])
    moments = load_file(checkpoint / "optimizer.safetensors")
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(load_file(checkpoint / "random.safetensors")["cpu"])
    return Position(**manifest["position"])
