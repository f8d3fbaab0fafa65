"""ggml's own quantiser, reached through the shared object that xllamacpp ships: no compiler, and bytes equal to llama.cpp's."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, MissingExtra, Problem
from planish.lazy import require

GgmlType = gguf.GGMLQuantizationType

PLAIN = {GgmlType.F32: np.float32, GgmlType.F16: np.float16}


@cache
def library() -> ctypes.CDLL:
    """The loaded shared object. Raises MissingExtra when xllamacpp is absent or ships no `ggml_quantize_chunk`."""
    folder = Path(str(require("xllamacpp", extra="gguf").__file__)).parent
    for path in sorted(folder.glob("xllamacpp*.so")):
        loaded = ctypes.CDLL(str(path))
        if hasattr(loaded, "ggml_quantize_chunk"):
            chunk = loaded.ggml_quantize_chunk
            chunk.restype = ctypes.c_size_t
            chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
            return loaded
    raise MissingExtra(Problem("xllamacpp", "this build exports no ggml_quantize_chunk", 'pip install "planish[gguf]"'))


def block_columns(kind: GgmlType) -> int:
    """Columns in one block of `kind`: a row's length must be a multiple of it."""
    return int(gguf.GGML_QUANT_SIZES[kind][0])


def row_bytes(kind: GgmlType, columns: int) -> int:
    """Bytes one row of `columns` values takes as `kind`."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(columns // block * size)


def quantise(values: NDArray[np.float32], kind: GgmlType, importance: NDArray[np.float32] | None = None, *, threads: int = 0) -> NDArray[Any]:
    """`values` (rows, columns) as `kind`: (rows, bytes) uint8, or float16/float32 of the same shape for the plain kinds.

    `importance` (columns,) weighs the squared error per column (llama.cpp's importance matrix). Rows are shared out among `threads` (0: one per core);
    each row is quantised alone, so the bytes do not depend on it. Raises InputError when `columns` is no multiple of the block.
    """
    if kind in PLAIN:
        return values.astype(PLAIN[kind], copy=False)
    rows, columns = values.shape
    if columns % block_columns(kind):
        why = f"rows of {columns} values do not divide into blocks of {block_columns(kind)}"
        raise InputError(Problem(kind.name, why, "choose a type with smaller blocks"))
    source = np.ascontiguousarray(values, dtype=np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    if weights is not None and weights.shape != (columns,):
        raise InputError(Problem("importance", f"shape {weights.shape}, must be ({columns},)"))
    out = np.empty((rows, row_bytes(kind, columns)), dtype=np.uint8)
    chunk = library().ggml_quantize_chunk
    pointer = None if weights is None else weights.ctypes.data

    def share(first: int, count: int) -> None:
        chunk(int(kind), source.ctypes.data, out.ctypes.data, first * columns, count, columns, pointer)

    workers = min(threads or os.cpu_count() or 1, rows)
    step = -(-rows // workers)
    with ThreadPoolExecutor(workers) as pool:  # ctypes releases the interpreter lock
        list(pool.map(lambda first: share(first, min(step, rows - first)), range(0, rows, step)))
    return out
