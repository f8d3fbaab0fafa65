"""Which layers of a model an adapter sits on: by name, by regular expression, by number; what is not there is refused with what is near (MISSION A2, A3)."""

from __future__ import annotations

import difflib
import re
from typing import Any

from torch import nn

from planish.errors import InputError, Problem
from planish.model.backbone import base_of, layers

SHOWN = 12
"""So many layer names are listed at most."""


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every matrix of the model but the embeddings and the LM head, by its full name: plain, 4-bit and GPT-2's transposed ones."""
    base = base_of(model)
    head = base.get_output_embeddings()
    return {name: module for name, module in base.named_modules() if module is not head and is_linear(module)}


def is_linear(module: nn.Module) -> bool:
    """Whether the module is one matrix product. transformers' Conv1D is one with its weight the other way round."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def transposed(modules: dict[str, nn.Module]) -> bool:
    """Whether the matrices are kept the other way round, as GPT-2's are."""
    return any(type(module).__name__ == "Conv1D" for module in modules.values())


def size(module: Any) -> tuple[int, int]:
    """(in, out) of a matrix, as its maths has it and not as its storage does."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return int(module.weight.shape[0]), int(module.weight.shape[1])


def layer_number(name: str) -> int | None:
    """Which decoder layer a module is in: the first number in its name."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def numbers(model: nn.Module, which: str | list[int] | None) -> list[int] | None:
    """The layers of a range "20-29" or a list, sorted; None for all. Negative ones in a list count from the end. Raises InputError for one that is not there."""
    if which is None:
        return None
    count = len(layers(model))
    if isinstance(which, str):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", which)
        if found is None:
            raise InputError(Problem("adapter.layers", f'"{which}" is no range', 'write "20-29", "29" or a list of numbers'))
        wanted = list(range(int(found[1]), int(found[2] or found[1]) + 1))
    else:
        wanted = [number + count if number < 0 else number for number in which]
    absent = [number for number in wanted if not 0 <= number < count]
    if absent or not wanted:
        why = f"names no layer: {absent[:SHOWN] or which!r}"
        raise InputError(Problem("adapter.layers", why, f"the model has layers 0 to {count - 1}"))
    return sorted(set(wanted))


def chosen(model: nn.Module, targets: str | list[str], which: list[int] | None = None) -> dict[str, nn.Module]:
    """The layers that `targets` names, within the layers numbered `which`. "all-linear" is every one, another string a regular expression over whole names, a list their ends.

    Raises InputError, for every name at once, where nothing matches.
    """
    known = linear_layers(model)
    named = dict(base_of(model).named_modules())  # an embedding or the LM head may be named, it is never meant by "all-linear"
    if isinstance(targets, str):
        found = (
            known if targets == "all-linear" else {name: module for name, module in named.items() if _matches(targets, name) and not list(module.children())}
        )
        problems = [] if found else [_absent(targets, known, named)]
    else:
        ends = {target: {name: module for name, module in named.items() if name == target or name.endswith(f".{target}")} for target in targets}
        problems = [_absent(target, known, named) for target, modules in ends.items() if not modules] or ([] if targets else [_absent("", known, named)])
        found = {name: module for modules in ends.values() for name, module in modules.items()}
    if problems:
        raise InputError(*problems)
    kept = {name: module for name, module in found.items() if which is None or layer_number(name) in which}
    if not kept:
        raise InputError(Problem("adapter.targets", f"none of {targets!r} is in the layers {which}", "name other targets or other layers"))
    return kept


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as broken:
        raise InputError(Problem("adapter.targets", f'"{pattern}" is no regular expression: {broken}', "a list names layers by their ends")) from None


def _absent(target: str, known: dict[str, nn.Module], named: dict[str, nn.Module]) -> Problem:
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in known))
    near = difflib.get_close_matches(target, [*ends, *{name.rpartition(".")[2] for name in named if name}], n=2, cutoff=0.5)
    fix = (f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else "") + f"its linear layers are: {', '.join(ends[:SHOWN])}"
    return Problem("adapter.targets", f'no layer of the model is "{target}"', fix)
