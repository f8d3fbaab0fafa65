"""The data file beside an ONNX graph: where each initializer lies, and the bytes, streamed a few rows at a time from the checkpoint (MISSION Z5).

Codes are those of onnxruntime's MatMulNBits and GatherBlockQuantized: blocks of a row share a scale, unsigned codes stand low bits first, and value = (code - zero) * scale.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.merge_sources import Parent
from planish.model.onnx_decoder import Decoder
from planish.model.rtn import Coded, rtn
from planish.store.objects import refuse_full

DATA = "model.onnx.data"
ALIGNED = 64
"""Bytes. An initializer begins at a multiple, so that a mapped file can be computed on as it lies."""
ROWS_AT_ONCE = 2**20
"""Values read at a time."""
WIDTH = {"F32": 4, "U8": 1}
EMBEDDING = "model.embed_tokens.weight"
OUTPUT_BITS = 8
"""Embedding and output matrix never have fewer: every token and every logit goes through them."""


class Initializer(NamedTuple):
    """An array of the graph: its dtype, its shape and where its bytes begin in the data file."""

    name: str
    dtype: Literal["F32", "U8"]
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * WIDTH[self.dtype]


class Weight(NamedTuple):
    """A weight of the checkpoint (rows, columns) or (values,) as the file holds it: `bits` 32 as fp32, else codes, scales and, below 8 bits, zeros."""

    name: str
    shape: tuple[int, ...]
    bits: int
    stored: tuple[Initializer, ...]


def plan(decoder: Decoder, bits: int, block: int) -> dict[str, Weight]:
    """Where everything goes, by the checkpoint's names. Matrices have `bits`, embedding and output matrix at least 8; vectors stay fp32. `block` divides every row.

    Raises InputError where it does not.
    """
    found: dict[str, Weight] = {}
    start = 0
    problems = []
    for name, shape in decoder.shapes.items():
        inside = ".layers." in name
        asked = 32 if len(shape) == 1 else bits if inside else max(bits, OUTPUT_BITS)
        if asked < 32 and shape[1] % block:
            problems.append(Problem("block", f"{block} does not divide the {shape[1]} columns of {name}", "choose 16, or precision: fp32"))
            continue
        stored = []
        for part, dtype, dims in _parts(name, shape, asked, block):
            stored.append(Initializer(part, dtype, dims, start))
            start += -(-stored[-1].bytes // ALIGNED) * ALIGNED
        found[name] = Weight(name, shape, asked, tuple(stored))
    if problems:
        raise InputError(*problems)
    return found


def _parts(name: str, shape: tuple[int, ...], bits: int, block: int) -> list[tuple[str, Literal["F32", "U8"], tuple[int, ...]]]:
    if bits == 32:
        return [(name, "F32", shape)]
    rows, blocks = shape[0], shape[1] // block
    found: list[tuple[str, Literal["F32", "U8"], tuple[int, ...]]] = [
        (f"{name}.codes", "U8", (rows, blocks, block * bits // 8)),
        (f"{name}.scales", "F32", (rows, blocks)),
    ]
    return found if bits == 8 else [*found, (f"{name}.zeros", "U8", (rows, -(-blocks * bits // 8)))]


def size(weights: Iterable[Weight]) -> int:
    """Bytes of the data file."""
    return max(one.start + one.bytes for weight in weights for one in weight.stored)


def packed(values: Tensor, bits: int) -> NDArray[np.uint8]:
    """(R, C) numbers from 0 to 2^bits - 1 as (R, ceil(C bits / 8)) bytes, the first in the low bits. Ex: 4 bits, (1, 2, 3) -> 0x21, 0x03."""
    numbers = values.to(torch.uint8).numpy()
    if bits == 8:
        return np.ascontiguousarray(numbers)
    even = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)))
    return np.ascontiguousarray(even[:, ::2] | (even[:, 1::2] << 4))


def coded(values: Tensor, bits: int, block: int) -> Coded:
    """Rows rounded to nearest: 8 bits around zero, 4 bits between each block's least and greatest value."""
    return rtn(values, bits, block, symmetric=bits == 8)


def as_stored(made: Coded, bits: int) -> list[NDArray[Any]]:
    """Codes, scales and, below 8 bits, zeros, as the graph's initializers hold them."""
    half = 2 ** (bits - 1)
    found: list[NDArray[Any]] = [packed(made.codes + half, bits), np.ascontiguousarray(made.grid.scale.numpy())]
    return found if bits == 8 else [*found, packed(made.grid.zero + half, bits)]


def write(
    path: Path,
    source: Parent,
    weights: Iterable[Weight],
    block: int,
    four_bits: Callable[[str, Tensor], Coded] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[float, float]:
    """Write the data file; gives ||W' - W||^2 and ||W||^2 over the weights in codes. The file has its full size first, so that a full disk is known at once.

    `four_bits` rounds a whole matrix of 4 bits by its name, where it is not to be rounded to nearest, a few rows at a time.

    Raises InputError naming a weight that is not finite; RunFailed where its disk has too few bytes free, OSError where it fills meanwhile.
    """
    planned = list(weights)
    refuse_full(path, size(planned))
    changed = whole = 0.0
    with path.open("wb", buffering=0) as stream:
        os.posix_fallocate(stream.fileno(), 0, size(planned))
        for weight in planned:
            at = [one.start for one in weight.stored]
            columns = weight.shape[1] if len(weight.shape) > 1 else 1
            solved = four_bits if weight.bits == 4 else None
            step = math.prod(weight.shape) if solved else max(1, ROWS_AT_ONCE // columns) * columns
            for first in range(0, math.prod(weight.shape), step):
                values = source.read(weight.name, first, min(first + step, math.prod(weight.shape))).float()
                if not bool(torch.isfinite(values).all()):
                    raise InputError(Problem(f"{source.folder}: {weight.name}", "holds NaN or infinite weights", "fetch or train this model again"))
                arrays: list[NDArray[Any]] = [values.contiguous().numpy()]
                if weight.bits < 32:
                    matrix = values.reshape(-1, columns)
                    made = solved(weight.name, matrix) if solved else coded(matrix, weight.bits, block)
                    changed += float((made.values().reshape(-1) - values).square().sum(dtype=torch.float64))
                    whole += float(values.square().sum(dtype=torch.float64))
                    arrays = as_stored(made, weight.bits)
                for index, array in enumerate(arrays):
                    at[index] += _put(stream.fileno(), array, at[index])
            advance(1)
    return changed, whole


def _put(handle: int, array: NDArray[Any], at: int) -> int:
    data = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy's stubs do not say that an array is a buffer
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done:], at + done)
    return done
