"""The parents of a merge, opened: whole checkpoints and LoRA adapters alike give any stretch of any tensor in fp32, without a model ever being built."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from planish.errors import InputError, Problem, did_you_mean
from planish.model import bundled
from planish.model.json_object import read_json
from planish.model.lora_folder import LoraFolder
from planish.model.safetensors_header import Entry
from planish.model.tensor_stream import FLOATING, TensorFolder, refuse_second_head


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a checkpoint."""
    return (folder / "adapter_config.json").is_file()


class Checkpoint:
    """A model folder. `entries` are its tensors; an output matrix beside the embedding that it is tied to is left out.

    Raises InputError, with every problem, for quantised or otherwise not floating weights, and for an output matrix that differs from the embedding it is tied to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self._tensors = TensorFolder(folder)
        self.tied = bool(self.config.get("tie_word_embeddings"))
        if self.tied:
            refuse_second_head(self._tensors)
        self.entries: dict[str, Entry] = {name: entry for name, entry in self._tensors.entries.items() if not (self.tied and name == "lm_head.weight")}
        problems = [
            Problem(f"{folder}: {name}", f"is {entry.dtype}, and only floating weights are merged", "merge the 16-bit checkpoints")
            for name, entry in self.entries.items()
            if entry.dtype not in FLOATING
        ]
        layers = self.config.get("num_hidden_layers", self.config.get("n_layer", 0))
        if type(layers) is not int or layers < 0:
            problems.append(Problem(f"{folder}/config.json: num_hidden_layers", f"is {layers!r:.40} and no number of layers", "save the model again"))
        self.layers: int = layers if type(layers) is int else 0
        """Transformer layers, as the configuration says."""
        if self.config.get("quantization_config"):
            problems.append(Problem(f"{folder}/config.json: quantization_config", "the weights are quantised", "merge the 16-bit checkpoints, then quantise"))
        if problems:
            raise InputError(*problems[:8])

    def read(self, name: str, start: int, stop: int, base: Tensor | None = None, into: Tensor | None = None) -> Tensor:
        """Flat fp32 values, written over `into` where it is given; `base` is not needed."""
        return self._tensors.read(name, start, stop, into)


class Adapted:
    """An adapter on the base: what merging it would give, formed for the rows asked for alone.

    Raises InputError for an adapter that is no plain LoRA, and for weights that the base lacks or has in another shape.
    """

    def __init__(self, folder: Path, base: Checkpoint) -> None:
        self.folder, self._base, self._lora = folder, base, LoraFolder(folder)
        self.config, self.entries, self.tied, self.layers = base.config, base.entries, base.tied, base.layers
        self._changed = set(self._lora.weights)
        problems = []
        for name in sorted(self._changed):
            if name not in self.entries:
                problems.append(Problem(f"{folder}: {name}", "is no weight of the base", "give the base it was trained on"))
                continue
            low, high = self._lora.pair(name.removesuffix(".weight"))
            shape = (high.shape[0], low.shape[1])
            shape = shape[::-1] if self._lora.config.get("fan_in_fan_out") else shape
            if shape != self.entries[name].shape or high.shape[1] != low.shape[0]:
                problems.append(Problem(f"{folder}: {name}", f"changes {shape}, the base has {self.entries[name].shape}", "give the base it was trained on"))
        if problems:
            raise InputError(*problems)

    def read(self, name: str, start: int, stop: int, base: Tensor | None = None, into: Tensor | None = None) -> Tensor:
        """Flat fp32 values: the base's (`base`, where they are at hand) plus B A times the scaling; `into` may be written over."""
        plain = self._base.read(name, start, stop, into=into) if base is None else base
        if name not in self._changed:
            return plain
        left, right = _factors(self._lora, name.removesuffix(".weight"))
        width = right.shape[1]
        rows = slice(start // width, math.ceil(stop / width))
        delta = (left[rows] @ right).reshape(-1)[start - rows.start * width :][: stop - start]
        return plain + delta


@lru_cache(maxsize=4)
def _factors(lora: LoraFolder, module: str) -> tuple[Tensor, Tensor]:
    """(rows, r) and (r, columns) of a weight's difference, scaled; the last few are kept while a large tensor goes by in pieces."""
    low, high = lora.pair(module)
    left, right = (low.T, high.T) if lora.config.get("fan_in_fan_out") else (high, low)
    return left.contiguous() * lora.scaling(module), right.contiguous()


Parent = Checkpoint | Adapted


def placed(path: str, relative_to: Path) -> Path:
    """The folder that a merge names: a path from `relative_to`, or a model that comes with planish, unless a folder of that name is there.

    Raises InputError for what is neither.
    """
    folder = Path(path) if Path(path).is_absolute() else relative_to / path
    if folder.is_dir():
        return folder
    if path in bundled.BUNDLED:
        return bundled.locate(path)
    raise InputError(Problem(path, f"is no folder ({folder}) and no model that comes with planish", did_you_mean(path, bundled.BUNDLED)))


def open_parents(base: Path | None, models: list[Path]) -> tuple[Checkpoint | None, list[Parent]]:
    """Base and models. Raises InputError with the problems of all of them at once."""
    problems: list[Problem] = []
    opened_base: Checkpoint | None = None
    parents: list[Parent] = []
    try:
        if base is not None and is_adapter(base):
            raise InputError(Problem(str(base), "is an adapter and cannot be the base", "name the model it was trained on"))
        opened_base = None if base is None else Checkpoint(base)
    except InputError as refused:
        problems += refused.problems
    for folder in models:
        try:
            if is_adapter(folder):
                if opened_base is None:
                    raise InputError(Problem(str(folder), "is an adapter, and no sound base is given", "name the base it was trained on: base: FOLDER"))
                parents.append(Adapted(folder, opened_base))
            else:
                parents.append(Checkpoint(folder))
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*problems)
    return opened_base, parents


def sampled(parent: Parent, name: str, values: int = 16384) -> Tensor:
    """A stretch from the middle of a tensor, fp32."""
    size = parent.entries[name].size
    start = max(0, (size - values) // 2)
    return parent.read(name, start, min(size, start + values)).to(torch.float64)
