"""What a model's files say of its weights without loading one: names and shapes from the headers of its safetensors files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from planish.errors import InputError, Problem

MAX_HEADER = 100_000_000
"""The format's own limit for a header, in bytes."""


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape over all files of the folder. Raises InputError, with every problem, for a file that is missing, cut or no safetensors file."""
    found: dict[str, tuple[int, ...]] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= _header(path)
        except (OSError, ValueError, KeyError, TypeError) as why:
            problems.append(Problem(str(path), f"is no whole safetensors file: {why}", "fetch the file again"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        missing = sorted(name for name in named if not (folder / name).is_file())
        problems += [Problem(str(folder / name), "is named by the index and is not there", "fetch the file") for name in missing]
    if problems:
        raise InputError(*problems)
    return found


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        if len(first) < 8:
            raise ValueError("it is empty")
        (length,) = struct.unpack("<Q", first)
        if length > min(MAX_HEADER, size):
            raise ValueError("its header is longer than the file")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"its header speaks of {8 + length + end} bytes and it has {size}")
    return {name: tuple(tensor["shape"]) for name, tensor in header.items()}
