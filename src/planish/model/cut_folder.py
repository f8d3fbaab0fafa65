"""A smaller checkpoint from a larger one: only the kept rows and columns are read, a few at a time, and written as a plain Hugging Face folder (MISSION Z9)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.merge_sources import Checkpoint
from planish.model.tensor_stream import PIECE, write_tensors
from planish.model.units import Cut, Units, cut_config, layout, renamed, selection, units_of
from planish.rows import canonical_json

CARRIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocabulary_map.json",
)
"""What goes with the weights as it is."""


class Source(Checkpoint):
    """A checkpoint that is to be cut, with its units. Raises InputError for what is no plain decoder, and for F64 weights, which would be rounded on their way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rounded = [name for name, entry in self.entries.items() if entry.dtype == "F64"]
        if rounded:
            raise InputError(Problem(f"{folder}: {rounded[0]}", "is F64, and weights are read in fp32", "save the model in fp32 or 16 bits"))
        self.units: Units = units_of(self.config, self.entries, str(folder))


def check_loads(config: Mapping[str, Any], shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Build what transformers makes of the configuration, without memory, and hold its shapes against ours. Raises InputError where they differ or it refuses."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        told = {key: value for key, value in config.items() if key != "model_type"}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(str(config["model_type"]), **told), trust_remote_code=False)
    except Exception as refused:  # its strict configurations raise types of their own
        why = " ".join(str(refused).split())[:200]
        raise InputError(Problem("prune", f"transformers refuses the resulting configuration: {why}", "remove another number of units")) from refused
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.get("tie_word_embeddings"):
        theirs.pop("lm_head.weight", None)
    ours = {name: shape for name, (_, shape) in shapes.items()}
    apart = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if apart:
        name = apart[0]
        raise InputError(Problem(f"prune: {name}", f"would be {ours.get(name)}, and transformers builds {theirs.get(name)}", "remove another number of units"))


def selected(source: Checkpoint, name: str, rows: Tensor | None, columns: Tensor | None) -> Iterator[Tensor]:
    """The kept values of a tensor in order, flat and fp32, in pieces. Raises InputError for weights that are not finite."""
    shape = source.entries[name].shape
    width = shape[1] if len(shape) == 2 else 1
    step = max(1, PIECE // max(1, width))
    for start, stop in _runs(rows, source.entries[name].size // max(1, width)):
        for first in range(start, stop, step):
            values = source.read(name, first * width, min(stop, first + step) * width)
            kept = values if columns is None else values.view(-1, width).index_select(1, columns).reshape(-1)
            if not bool(torch.isfinite(kept).all()):
                raise InputError(Problem(f"{source.folder}: {name}", "holds NaN or infinite weights", "fetch or train this model again"))
            yield kept


def _runs(rows: Tensor | None, count: int) -> Iterator[tuple[int, int]]:
    """Stretches of adjacent rows."""
    if rows is None:
        yield 0, count
        return
    listed = rows.tolist()
    breaks = [0, *(place + 1 for place, (one, other) in enumerate(pairwise(listed)) if other != one + 1), len(listed)]
    for begin, end in pairwise(breaks):
        if begin < end:
            yield listed[begin], listed[end - 1] + 1


def write_cut(source: Source, cut: Cut, folder: Path, advance: Callable[[int], None]) -> int:
    """Weights, config.json and what is carried into an existing empty folder; gives the tensors' bytes. `advance(1)` after each tensor."""
    shapes = layout(source.entries, source.units, cut)
    origin = {new: name for name in source.entries if (new := renamed(name, cut)) is not None}

    def values(new: str) -> Iterator[Tensor]:
        yield from selected(source, origin[new], *selection(origin[new], source.units, cut))
        advance(1)

    written = write_tensors(folder, shapes, values)
    _carry(source, cut_config(source.config, source.units, cut), folder)
    return written


def write_values(source: Source, values: Callable[[str], Iterator[Tensor]], folder: Path, advance: Callable[[int], None]) -> int:
    """The same checkpoint with other values in the same shapes; gives the tensors' bytes. `advance(1)` after each tensor."""

    def moved_on(name: str) -> Iterator[Tensor]:
        yield from values(name)
        advance(1)

    written = write_tensors(folder, {name: (entry.dtype, entry.shape) for name, entry in source.entries.items()}, moved_on)
    _carry(source, source.config, folder)
    return written


def _carry(source: Source, config: Mapping[str, Any], folder: Path) -> None:
    (folder / "config.json").write_text(canonical_json(dict(config)) + "\n", encoding="utf-8")
    for name in CARRIED:
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)
