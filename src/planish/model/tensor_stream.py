"""Tensors of a checkpoint one piece at a time: read by memory map from safetensors, written to preallocated safetensors; a few pieces are all that is ever in memory.

A folder that is written appears complete or not at all, and what is read is never changed: the maps are private copies of the files.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from planish.errors import InputError, Problem, RunFailed

MAX_HEADER = 16 * 2**20
"""Bytes. The format allows 100 MB; 16 MiB are the names of a hundred thousand tensors, and a parsed header takes ten times its bytes."""
PIECE = 2**19
"""Values of one piece: 2 MiB in fp32. A method holds a dozen such at once, beside 240 MiB of libraries, and all must stay below 0.4 GB."""
SHARD = 5 * 10**9
"""Bytes of one file that is written."""

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
FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WHOLE = {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}


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


class TensorFolder:
    """The tensors of a checkpoint folder, opened by memory map. `entries` maps a tensor's name to what the headers say.

    Raises InputError, with every file's problem, for headers that are not sound and for a name in two files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._maps: dict[str, mmap.mmap] = {}
        problems: list[Problem] = []
        for path in weight_files(folder):
            try:
                entries = read_header(path)
            except InputError as refused:
                problems += refused.problems
                continue
            problems += [Problem(f"{path}: {name}", "stands in two files", "save the model again") for name in sorted(entries.keys() & self.entries.keys())]
            self.entries |= entries
            with path.open("rb") as stream:
                held = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            self._maps |= dict.fromkeys(entries, held)
        if problems:
            raise InputError(*problems)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """(stop - start,) values of a floating tensor as its flat memory has them, in fp32 and owned; the pages that were read are given back."""
        entry, held = self.entries[name], self._maps[name]
        stop, width = entry.size if stop is None else stop, BYTES[entry.dtype]
        if stop == start:
            return torch.empty(0)
        first = entry.start + start * width
        values = torch.frombuffer(held, dtype=FLOATING[entry.dtype], count=stop - start, offset=first).to(torch.float32, copy=True)
        page = first - first % mmap.PAGESIZE
        held.madvise(mmap.MADV_DONTNEED, page, first + (stop - start) * width - page)
        return values


class Piece(NamedTuple):
    """The same stretch of one tensor in the base (None where the method has none) and in every model: flat, fp32. Not to be changed in place."""

    base: Tensor | None
    models: list[Tensor]


class Pieces:
    """One tensor of all models, to be gone through as often as a statistic needs; `size` values, of `count` models."""

    def __init__(self, name: str, size: int, count: int, read: Callable[[int, int], Piece], piece: int = PIECE) -> None:
        self.name, self.size, self.count = name, size, count
        self._read, self._piece = read, max(1, piece)
        self._only: Piece | None = None

    def __iter__(self) -> Iterator[Piece]:
        if self.size <= self._piece:
            if self._only is None:
                self._only = self._read(0, self.size)
            yield self._only
            return
        for start in range(0, self.size, self._piece):
            yield self._read(start, min(self.size, start + self._piece))


def of_whole(base: Tensor | None, models: list[Tensor], name: str = "", piece: int | None = None) -> Pieces:
    """Tensors in memory as pieces. Raises InputError where shapes differ."""
    shapes = {tuple(tensor.shape) for tensor in ([] if base is None else [base]) + models}
    if len(shapes) != 1:
        raise InputError(Problem(name or "tensors", f"shapes differ: {sorted(shapes)}", "merge models of one shape"))
    flat, flat_base = [tensor.reshape(-1).float() for tensor in models], None if base is None else base.reshape(-1).float()

    def read(start: int, stop: int) -> Piece:
        return Piece(None if flat_base is None else flat_base[start:stop], [tensor[start:stop] for tensor in flat])

    return Pieces(name, flat[0].numel(), len(models), read, piece or max(1, flat[0].numel()))


def write_tensors(folder: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], values: Callable[[str], Iterator[Tensor]], shard: int = SHARD) -> int:
    """Write `layout` (name -> dtype, shape) as safetensors to an existing folder, in files of at most `shard` bytes with their index; gives the bytes of all tensors.

    Every file has its full size before the first tensor is asked for, so that a full disk is known at once. `values(name)` gives the tensor's flat values in order.
    Raises OSError on a full disk, RunFailed for a value that is finite and no longer is in the dtype written.
    """
    files: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    filled = total = 0
    for name, (dtype, shape) in layout.items():
        needed = math.prod(shape) * BYTES[dtype]
        if filled and filled + needed > shard:
            files.append({})
            filled = 0
        files[-1][name] = (dtype, shape)
        filled, total = filled + needed, total + needed
    names = ["model.safetensors"] if len(files) == 1 else [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    begins = [_allocate(folder / name, held) for name, held in zip(names, files, strict=True)]
    for name, held, begin in zip(names, files, begins, strict=True):
        with (folder / name).open("r+b", buffering=0) as stream:
            stream.seek(begin)
            for tensor, (dtype, shape) in held.items():
                written = 0
                for piece in values(tensor):
                    data = _stored(tensor, piece, dtype)
                    written += data.numel()
                    _write_all(stream.fileno(), data.contiguous().view(torch.uint8).numpy().data)
                assert written == math.prod(shape), f"{tensor}: {written} values of {shape}"
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": {tensor: name for name, held in zip(names, files, strict=True) for tensor in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _allocate(path: Path, held: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """The file with its header at its full size; gives where its tensors begin."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    reached = 0
    for name, (dtype, shape) in held.items():
        end = reached + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, 8 + len(text) + reached)
        stream.write(struct.pack("<Q", len(text)) + text)
    return 8 + len(text)


def _stored(name: str, values: Tensor, dtype: str) -> Tensor:
    if dtype in WHOLE:
        return values.to(WHOLE[dtype])
    stored = values.to(FLOATING[dtype])
    if not bool(torch.isfinite(stored).all()):
        raise RunFailed(Problem(name, f"holds values that are not finite as {dtype}", "write another dtype, or lower the weights"))
    return stored


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]
