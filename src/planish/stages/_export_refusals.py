"""What exporters cannot write, said before anything runs: a family or tokenizer that a format has no place for, widths that no group divides, two files of one name (R-1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from planish import shelf
from planish.errors import InputError, MissingExtra, Problem
from planish.model.merge_sources import Checkpoint
from planish.recipe_keys import Use
from planish.rows import canonical_json

Shapes = Mapping[str, tuple[int, ...]]
"""The tensors of a checkpoint by name."""


def unwritable(exports: Sequence[Use], base: Path, where: str) -> list[Problem]:
    """What exporters refuse of the base, and so of what is tuned from it, which has its family, shapes and tokenizer."""
    problems = [*_same_files(exports, where)]
    for number, use in enumerate(exports):
        place = f"{where}[{number}]"
        problems += _refused(use, "check", lambda: base, place) or _refused(use, "fits", lambda: _shapes(base), place)
    return problems


def unfit(exports: Sequence[Use], left: Shapes, where: str) -> list[Problem]:
    """What exporters refuse of the tensors that are left of a cut model."""
    fix = "leave widths that 32 divides, by another number of channels or heads, or name export: [gguf] for this entry, which writes any"
    return [Problem(one.where, f"{one.why}: so wide is what would be left", fix) for use in exports for one in _refused(use, "fits", lambda: left, where)]


def _refused(use: Use, look: str, given: Any, where: str) -> list[Problem]:
    """What an exporter's own function of that name says; nothing where it has none."""
    try:
        if hasattr(shelf.find("exporters", use.name).load(), look):
            shelf.call("exporters", use.name, look, use.options)(given())
    except (InputError, MissingExtra) as refused:
        return [Problem(f"{where}: {use.name}: {one.where}", one.why, one.fix) for one in refused.problems]
    return []


def _shapes(base: Path) -> Shapes:
    return {name: entry.shape for name, entry in Checkpoint(base).entries.items()}


def _same_files(exports: Sequence[Use], where: str) -> Iterator[Problem]:
    """Files of one name: the second would be written over the first, and the table would say of one file what was measured of the other."""
    often, seen = Counter(use.name for use in exports), dict[str, int]()
    for number, use in enumerate(exports):
        if often[use.name] == 1:
            continue
        technique = shelf.find("exporters", use.name)
        options, key = technique.options(use.options), getattr(technique.load(), "NAMED_BY", None)
        said = use.name if key == "" else f"{use.name} with {key}: {options[key]}" if key else f"{use.name} with {canonical_json(options)}"
        if said in seen:
            yield Problem(f"{where}[{number}]", f"{said} stands at {where}[{seen[said]}] too, and both files would have one name", "keep one of them")
        seen.setdefault(said, number)
