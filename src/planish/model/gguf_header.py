"""A GGUF file's header, read with every count held against the bytes that are there: what it says of its tensors, before any native code is given the file."""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import gguf

from planish.errors import InputError, Problem

GgmlType = gguf.GGMLQuantizationType

VERSIONS = (2, 3)
LONGEST_NAME, LONGEST_KEY = 63, 65_535
"""Bytes of a tensor's name (llama.cpp's limit) and of a key (the format's)."""
MOST_DIMENSIONS = 4
FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the value types that are neither text (8) nor a list (9)."""
TEXT, LIST, UINT32 = 8, 9, 4
ALIGNMENT = "general.alignment"


class GgufTensor(NamedTuple):
    """One tensor: its type, (rows, ..., columns), and where its bytes lie in the file."""

    kind: GgmlType
    shape: tuple[int, ...]
    start: int
    bytes: int


class _Reader:
    """Numbers and texts one after the other; ValueError where the file ends first."""

    def __init__(self, held: mmap.mmap) -> None:
        self.held, self.at = held, 0

    def skip(self, count: int) -> int:
        """Pass over bytes; gives where they began."""
        if count > len(self.held) - self.at:
            raise ValueError(f"it ends inside its header: {count} bytes are wanted at {self.at}")
        self.at += count
        return self.at - count

    def number(self, form: str) -> int:
        found: int = struct.unpack_from(form, self.held, self.skip(struct.calcsize(form)))[0]
        return found

    def text(self, longest: int) -> str:
        length = self.number("<Q")
        if length > longest:
            raise ValueError(f"a name of {length} bytes")
        start = self.skip(length)
        return self.held[start : start + length].decode("utf-8")


def read_tensors(path: Path) -> dict[str, GgufTensor]:
    """Name -> tensor, every byte of the file accounted for; texts and lists of the metadata are passed over and never held.

    Raises InputError naming what is wrong: versions other than 2 and 3, counts or lengths past the end, names twice, unknown types, rows that are no whole blocks,
    tensors that overlap, leave a hole or end elsewhere than the file.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
            return _tensors(_Reader(held))
    except (OSError, ValueError) as why:
        raise InputError(Problem(str(path), f"is no whole GGUF file: {why}", "export or fetch the file again")) from why


def _tensors(reader: _Reader) -> dict[str, GgufTensor]:
    size = len(reader.held)
    if reader.held[: reader.skip(4) + 4] != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if (version := reader.number("<I")) not in VERSIONS:
        raise ValueError(f"version {version}")
    tensors, keys = reader.number("<Q"), reader.number("<Q")
    alignment = _metadata(reader, keys)
    told = [_told(reader) for _ in _counted(tensors, size)]
    begin = _padded(reader.at, alignment)
    found: dict[str, GgufTensor] = {}
    reached = 0
    for name, kind, shape, offset in told:
        if name in found:
            raise ValueError(f"{name!r} stands twice")
        if offset != reached:
            raise ValueError(f"{name!r} begins at {offset}, where {reached} bytes are taken")
        columns, length = gguf.GGML_QUANT_SIZES[kind]
        if shape[-1] % columns:
            raise ValueError(f"{name!r} has rows of {shape[-1]} values, no whole blocks of {columns}")
        found[name] = GgufTensor(kind, shape, begin + offset, math.prod(shape) // columns * length)
        reached = _padded(offset + found[name].bytes, alignment)
    end = max((one.start + one.bytes for one in found.values()), default=reader.at)
    if size not in (end, _padded(end, alignment)):
        raise ValueError(f"its header speaks of {end} bytes and it has {size}")
    return found


def _metadata(reader: _Reader, keys: int) -> int:
    """Pass over the metadata; gives the alignment of the tensors."""
    seen: set[str] = set()
    alignment = 32
    for _ in _counted(keys, len(reader.held)):
        key = reader.text(LONGEST_KEY)
        if key in seen:
            raise ValueError(f"{key!r} stands twice")
        seen.add(key)
        kind = reader.number("<I")
        if key == ALIGNMENT:
            if kind != UINT32:
                raise ValueError(f"{ALIGNMENT} is no whole number")
            alignment = reader.number("<I")
            if alignment < 8 or alignment > 2**16 or alignment & (alignment - 1):
                raise ValueError(f"{ALIGNMENT} {alignment}")
        elif kind == LIST:
            each = reader.number("<I")
            _values(reader, each, reader.number("<Q"))
        else:
            _values(reader, kind, 1)
    return alignment


def _values(reader: _Reader, kind: int, count: int) -> None:
    if kind in FIXED:
        reader.skip(FIXED[kind] * count)
    elif kind == TEXT:
        for _ in _counted(count, len(reader.held)):
            reader.skip(reader.number("<Q"))
    else:
        raise ValueError(f"a value of the unknown type {kind}")


def _told(reader: _Reader) -> tuple[str, GgmlType, tuple[int, ...], int]:
    """What the header says of one tensor: name, type, shape (rows first), offset."""
    name = reader.text(LONGEST_NAME)
    dimensions = reader.number("<I")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"{name!r} has {dimensions} dimensions")
    shape = tuple(reader.number("<Q") for _ in range(dimensions))[::-1]
    if min(shape) < 1 or max(shape) >= 2**40:
        raise ValueError(f"{name!r} has the shape {shape}")
    kind = reader.number("<I")
    if kind not in gguf.GGML_QUANT_SIZES:
        raise ValueError(f"{name!r} has the unknown type {kind}")
    return name, GgmlType(kind), shape, reader.number("<Q")


def _counted(count: int, size: int) -> range:
    """So many things of at least 8 bytes each. ValueError where the file has no room for them: nothing is looped over, or held, that is not there."""
    if count > size // 8:
        raise ValueError(f"it claims {count} entries in {size} bytes")
    return range(count)


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
