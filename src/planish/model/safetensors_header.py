"""What safetensors files say of themselves, every byte accounted for, before a value is read: names, dtypes, shapes, places. Needs no torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from planish.errors import InputError, Problem

MAX_HEADER = 16 * 2**20
"""Bytes. The format allows 100 MB; 16 MiB are the names of a hundred thousand tensors, and a parsed header takes ten times its bytes."""

BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Of one value, by dtype."""


class Entry(NamedTuple):
    """One tensor in a file: its dtype as safetensors names it, its shape, and where its bytes begin in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Values."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Entry]:
    """What a safetensors file says of itself, every byte of it accounted for. Raises InputError naming what is wrong."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            first = stream.read(8)
            if len(first) < 8:
                raise ValueError("it is shorter than its own header")
            (length,) = struct.unpack("<Q", first)
            if length > min(MAX_HEADER, size - 8):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
        return _entries(header, 8 + length, size)
    except (OSError, ValueError, RecursionError) as why:
        raise InputError(Problem(str(path), f"is no whole safetensors file: {why}", "fetch or save the file again")) from why


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} in its header")


def _entries(header: Any, begin: int, size: int) -> dict[str, Entry]:
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is not text by name")
    spans: list[tuple[int, int, str]] = []
    for name, told in header.items():
        if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name!r} does not say dtype, shape and data_offsets")
        if not isinstance(told["dtype"], str) or told["dtype"] not in BYTES:
            raise ValueError(f"{name!r} has the unknown dtype {told['dtype']!r}")
        if not _whole_numbers(told["shape"]) or not _whole_numbers(told["data_offsets"]) or len(told["data_offsets"]) != 2:
            raise ValueError(f"shape or data_offsets of {name!r} are no lists of whole numbers")
        start, end = told["data_offsets"]
        if end - start != math.prod(told["shape"]) * BYTES[told["dtype"]]:
            raise ValueError(f"{name!r} has {end - start} bytes, which its shape does not")
        spans.append((start, end, name))
    reached = 0
    for start, end, name in sorted(spans):
        if start != reached:
            raise ValueError(f"{name!r} begins at {start}, where {reached} bytes are taken")
        reached = end
    if begin + reached != size:
        raise ValueError(f"its header speaks of {begin + reached} bytes and it has {size}")
    return {name: Entry(header[name]["dtype"], tuple(header[name]["shape"]), begin + start) for start, _, name in spans}


def _whole_numbers(given: Any) -> bool:
    return isinstance(given, list) and len(given) <= 16 and all(type(number) is int and 0 <= number < 2**48 for number in given)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those its index names, else model.safetensors. Raises InputError for what is missing or leads out of the folder."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted({str(name) for name in named.values()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
            raise InputError(Problem(str(index), "is no index of safetensors files", "save the model again")) from why
    outside = [Problem(str(index), f'names "{name}", which is no file of this folder', "save the model again") for name in names if Path(name).name != name]
    absent = [Problem(str(folder / name), "is missing", "give a checkpoint with safetensors weights") for name in names if not (folder / name).is_file()]
    if outside or absent:
        raise InputError(*(outside or absent))
    return [folder / name for name in names]
