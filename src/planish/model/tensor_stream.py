"""Tensors of a checkpoint one piece at a time: read from safetensors, written to preallocated safetensors; a few pieces are all that is ever in memory.

Files are read into a small buffer and not mapped: of a map's pages a seventh stayed in memory after they were given back, and a file that is cut short meanwhile
would end the process. A folder that is written appears complete or not at all.
"""

from __future__ import annotations

import json
import math
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor

from planish.errors import InputError, Problem, RunFailed
from planish.model.safetensors_header import BYTES, Entry, read_header, weight_files
from planish.store.objects import refuse_full

PIECE = 2**18
"""Values of one piece: 1 MiB in fp32. A method holds a dozen such at once, which adds little to 240 MiB of libraries; smaller ones cost more, as threads hand over between
them (a quarter of the piece takes twice the time)."""
SHARD = 5 * 10**9
"""Bytes of one file that is written."""

FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WHOLE = {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}


def opened(path: Path, *, whole: bool = False) -> Any:
    """A safetensors file by name (`keys`, `get_slice`, `get_tensor`). Raises InputError where its header is not sound or a tensor not floating, nor with `whole` an integer."""
    from safetensors import safe_open

    strange = [
        f"{name!r} is {entry.dtype}" for name, entry in read_header(path).items() if entry.dtype not in FLOATING and not (whole and entry.dtype in WHOLE)
    ]
    if strange:
        raise InputError(Problem(str(path), f"holds a dtype that is not read here: {strange[0]}", "save it in fp32 or 16 bits"))
    return safe_open(str(path), framework="pt")


class Buffers(threading.local):
    """Memory that is written over piece after piece, by name, each thread's its own: to get fresh memory from the system takes ten times as long as an addition on it."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(size,) with whatever was in it."""
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = torch.empty(size, dtype=dtype)
        return held[:size]


class TensorFolder:
    """The tensors of a checkpoint folder, opened. `entries` maps a tensor's name to what the headers say.

    Raises InputError, with every file's problem, for headers that are not sound and for a name in two files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._files: dict[str, FileIO] = {}
        self._buffers = Buffers()
        problems: list[Problem] = []
        held = ExitStack()
        finalize(self, held.close)
        for path in weight_files(folder):
            try:
                entries = read_header(path)
            except InputError as refused:
                problems += refused.problems
                continue
            problems += [Problem(f"{path}: {name}", "stands in two files", "save the model again") for name in sorted(entries.keys() & self.entries.keys())]
            self.entries |= entries
            self._files |= dict.fromkeys(entries, held.enter_context(path.open("rb", buffering=0)))
        if problems:
            raise InputError(*problems)

    def read(self, name: str, start: int = 0, stop: int | None = None, into: Tensor | None = None) -> Tensor:
        """(stop - start,) values of a floating tensor as its flat memory has them, in fp32 and owned, or written over `into`. Raises InputError for a file that was cut short."""
        entry, file = self.entries[name], self._files[name]
        stop, width = entry.size if stop is None else stop, BYTES[entry.dtype]
        values = torch.empty(stop - start) if into is None else into
        for first in range(start, stop, PIECE):
            count = min(PIECE, stop - first)
            raw = self._buffers.take("raw", count * width, torch.uint8)
            _read_all(file, raw.numpy().data, entry.start + first * width)
            values[first - start : first - start + count] = raw.view(FLOATING[entry.dtype])
        return values


def _read_all(file: FileIO, data: memoryview, at: int) -> None:
    while data:
        done = os.preadv(file.fileno(), [data], at)
        if not done:
            raise InputError(
                Problem(str(file.name), f"ends at byte {at}, before its tensors do: it was cut short meanwhile", "let nothing write to it, and begin again")
            )
        data, at = data[done:], at + done


def refuse_second_head(folder: TensorFolder, head: str = "lm_head.weight", embedding: str = "model.embed_tokens.weight") -> None:
    """For a model whose output matrix is its embedding. Raises InputError where the files hold another one besides: some readers would take it and some would not."""
    if head not in folder.entries or embedding not in folder.entries:
        return
    size = folder.entries[embedding].size
    same = folder.entries[head].shape == folder.entries[embedding].shape and all(
        torch.equal(folder.read(head, start, min(size, start + PIECE)), folder.read(embedding, start, min(size, start + PIECE)))
        for start in range(0, size, PIECE)
    )
    if not same:
        why = "is another matrix than the embedding, and config.json says that they are one"
        raise InputError(Problem(f"{folder.folder}: {head}", why, "take it out of the file, or set tie_word_embeddings to false"))


def finite(values: Tensor) -> bool:
    """Whether all are. One that is not leaves no sum finite; the slower look is for sums that overflow by themselves."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


class Piece(NamedTuple):
    """The same stretch of one tensor in the base (None where the method has none) and in every model: flat, fp32. Not to be changed in place."""

    base: Tensor | None
    models: list[Tensor]


class Pieces:
    """One tensor of all models, to be gone through as often as a statistic needs; `size` values, of `count` models."""

    def __init__(self, name: str, size: int, count: int, read: Callable[[int, int], Piece], piece: int = PIECE) -> None:
        self.name, self.size, self.count = name, size, count
        self._read, self._piece = read, max(1, piece)
        self.last: Piece | None = None

    def __iter__(self) -> Iterator[Piece]:
        """Each piece in turn, held as `last` until the next. One that is the whole tensor is read once, however often it is asked for."""
        for start in range(0, max(1, self.size), self._piece):
            if self.last is None or self.size > self._piece:
                self.last = self._read(start, min(self.size, start + self._piece))
            yield self.last


def of_whole(base: Tensor | None, models: list[Tensor], name: str = "", piece: int | None = None) -> Pieces:
    """Tensors in memory as pieces. Raises InputError where shapes differ."""
    shapes = {tuple(tensor.shape) for tensor in ([] if base is None else [base]) + models}
    if len(shapes) != 1:
        raise InputError(Problem(name or "tensors", f"shapes differ: {sorted(shapes)}", "merge models of one shape"))
    flat, flat_base = [tensor.reshape(-1).float() for tensor in models], None if base is None else base.reshape(-1).float()

    def read(start: int, stop: int) -> Piece:
        return Piece(None if flat_base is None else flat_base[start:stop], [tensor[start:stop] for tensor in flat])

    return Pieces(name, flat[0].numel(), len(models), read, piece or max(1, flat[0].numel()))


def write_tensors(
    folder: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], values: Callable[[str], Iterator[Tensor]], shard: int = SHARD, workers: int = 1
) -> int:
    """Write `layout` (name -> dtype, shape) as safetensors to an existing folder, in files of at most `shard` bytes with their index; gives the bytes of all tensors.

    Every file has its full size before the first tensor is asked for, so that a full disk is known at once. `values(name)` gives the tensor's flat values in order;
    with more `workers` than one it is called by that many threads at once, each at a tensor of its own on one core, the largest first.
    Raises RunFailed where its disk has too few bytes free, with how many are missing, and for a value that is finite and no longer is in the dtype written; OSError where the disk
    fills meanwhile.
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
    refuse_full(folder / names[0], total)
    with ExitStack() as opened:
        places: dict[str, tuple[int, int]] = {}
        for name, held in zip(names, files, strict=True):
            at = _allocate(folder / name, held)
            handle = opened.enter_context((folder / name).open("r+b", buffering=0)).fileno()
            for tensor, (dtype, shape) in held.items():
                places[tensor] = (handle, at)
                at += math.prod(shape) * BYTES[dtype]

        def write(tensor: str) -> None:
            (dtype, shape), (handle, at), written = layout[tensor], places[tensor], 0
            for piece in values(tensor):
                data = _stored(tensor, piece, dtype)
                _write_all(handle, data.contiguous().view(torch.uint8).numpy().data, at + written * BYTES[dtype])
                written += data.numel()
            assert written == math.prod(shape), f"{tensor}: {written} values of {shape}"

        if workers == 1:
            for tensor in layout:
                write(tensor)
        else:
            _side_by_side(write, sorted(layout, key=lambda tensor: -math.prod(layout[tensor][1])), workers)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": {tensor: name for name, held in zip(names, files, strict=True) for tensor in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _side_by_side(work: Callable[[str], None], names: list[str], workers: int) -> None:
    """Each name once, on threads that compute on one core each. What is raised first is raised here, and what has not begun by then never does."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for done in as_completed([pool.submit(work, name) for name in names]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the number that later threads begin with is the process's


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
    if not finite(stored):
        raise RunFailed(Problem(name, f"holds values that are not finite as {dtype}", "write another dtype, or lower the weights"))
    return stored


def _write_all(handle: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(handle, data, at)
        data, at = data[written:], at + written
