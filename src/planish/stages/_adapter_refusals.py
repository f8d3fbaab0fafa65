"""What an adapter refuses of a model's shapes, known before a weight is read: ranks larger than a layer, targets and layers that are not there (MISSION A1)."""

from __future__ import annotations

from pathlib import Path

from planish.errors import InputError, Problem
from planish.model import entry_memory, memory_shape
from planish.recipe import Recipe


def refusals(recipe: Recipe, index: int, base: Path) -> list[Problem]:
    """Of an entry of the train list, put on the model of the folder `base` without its weights. Of a model that cannot be built so, nothing is known yet."""
    section = recipe.train[index]
    try:
        model = memory_shape.empty(base)
    except InputError:
        return []
    try:
        memory_shape.trained(model, section.adapter.name, entry_memory.adapter_options(section, recipe.data.labels))
    except InputError as refused:
        return [Problem(_key(problem.where, index, section.adapter.name), problem.why, problem.fix) for problem in refused.problems]
    return []


def _key(where: str, index: int, name: str) -> str:
    """`adapter.r` of lora as its key in the recipe: `train[0].adapter.lora.r`."""
    part = where.removeprefix("adapter").removeprefix(f".{name}")
    return f"train[{index}].adapter.{name}{part}"
