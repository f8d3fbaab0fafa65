"""What a model's files say of its weights without loading one: names and shapes from the headers of its safetensors files."""

from __future__ import annotations

from pathlib import Path

from planish.errors import InputError, Problem
from planish.model.safetensors_header import read_header, weight_files


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape over all files of the folder. Raises InputError, with every problem, for a file that is missing, cut or no safetensors file."""
    found: dict[str, tuple[int, ...]] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= {name: entry.shape for name, entry in read_header(path).items()}
        except InputError as refused:
            problems += refused.problems
    if (folder / "model.safetensors.index.json").is_file():
        try:
            weight_files(folder)
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*problems)
    return found
