"""An entry of the train list as the memory model sees it: the model's shape, what the adapter trains, and the setup that the formulas take (MISSION T7)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from planish import shelf
from planish.errors import InputError
from planish.model import batched, memory_activations, memory_shape, oom_ladder, precision
from planish.model.memory_setup import Setup, Shape
from planish.recipe_train import TrainSection


@dataclass(frozen=True)
class Sized:
    """The base model's shape and what the entry's adapter trains on it."""

    shape: Shape
    trained: memory_shape.Trained


def sized(section: TrainSection, folder: Path, labels: list[str] | None = None) -> Sized:
    """Counted on the model without its weights. Raises InputError for a technique or an architecture of which too little is known, and as the adapter does."""
    memory_activations.check_technique(section.adapter.name)
    shape, model = memory_shape.read(folder)
    return Sized(shape, memory_shape.trained(model, section.adapter.name, adapter_options(section, labels)))


def adapter_options(section: TrainSection, labels: list[str] | None) -> dict[str, Any]:
    """The entry's adapter options; a head of classes has the task's labels, or two where they are not known yet."""
    options: dict[str, Any] = dict(section.adapter.options)
    if section.adapter.name == "head" and options.get("kind", "classification") == "classification" and not options.get("labels"):
        options["labels"] = labels or ["a", "b"]
    return options


def setup_of(section: TrainSection, own: memory_shape.Trained | None, micro: tuple[int, int, int], device: Literal["cpu", "cuda"], *, ranks: int = 1) -> Setup:
    """The setup of a micro-batch of `micro`: rows, tokens a row, trained tokens a row. `own` is None where what is trained is not known.

    On a GPU `auto` is taken as bf16, so that a plan for one needs none.
    """
    rows, length, scored = micro
    options = section.adapter.options
    asked = "bf16" if device == "cuda" and section.precision == "auto" else section.precision
    return Setup(
        "qlora" if section.four_bit and section.adapter.name == "lora" else section.adapter.name,
        own.count if own else 0,
        rows,
        length,
        scored,
        accumulation=math.ceil(section.batch_size / ranks / rows),
        precision=precision.for_training(asked, device) if device == "cpu" else asked,  # type: ignore[arg-type]
        optimizer=section.optimizer,
        checkpointed=section.checkpoint_activations,
        trained_layers=own.layers if own else None,
        rank=int(options.get("r", oom_ladder.LORA_RANK)) if section.adapter.name in ("lora", "dora") else None,
        device=device,
    )


def brought(setup: Setup, section: TrainSection, longest: int) -> Setup:
    """The setup with what the entry's objective brings: a frozen model that its loss asks, and the keys and values of the rows that the student writes at once.

    `longest` are the tokens of the longest row as a rollout may make it: rows that are written together are padded to it. Names of models must be found from here.
    """
    name, options = section.objective.name, section.objective.options
    module = shelf.find("objectives", name).load()
    folder: Path | None = shelf.call("objectives", name, "beside", options)() if hasattr(module, "beside") else None
    if folder is not None:
        parameters, hidden, ffn = _frozen(folder)
        pairs: int | None = shelf.call("objectives", name, "compared", options)() if hasattr(module, "compared") else 0
        setup = replace(setup, beside=parameters, beside_hidden=hidden, beside_ffn=ffn, compared=pairs)
    rows, answer = sampled(section)
    at_once = min(rows, batched.ROWS, max(1, batched.TOKENS // longest)) if answer else 0
    return replace(setup, rollout_tokens=at_once * longest)


def sampled(section: TrainSection) -> tuple[int, int]:
    """How many rows of a step the student writes at most, and tokens of an answer at most with its end; nothing where it writes none."""
    name, options = section.objective.name, section.objective.options
    if not hasattr(shelf.find("objectives", name).load(), "sampled"):
        return 0, 0
    found: tuple[int, int] = shelf.call("objectives", name, "sampled", options)(section.batch_size)
    return found


def _frozen(folder: Path) -> tuple[int, int, int]:
    """Parameters, width and FFN width of a frozen model; of an architecture whose layers are not known, its parameters and no widths."""
    try:
        shape, _ = memory_shape.read(folder)
    except InputError:
        return sum(parameter.numel() for parameter in memory_shape.empty(folder).parameters()), 0, 0
    return shape.parameters, shape.hidden, shape.ffn
