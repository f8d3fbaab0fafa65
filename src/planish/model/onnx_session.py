"""An exported ONNX folder opened in onnxruntime: checked against its own configuration, then asked for logits with a key-value cache (MISSION Z5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.lazy import require
from planish.model.onnx_decoder import Decoder, read_decoder
from planish.model.onnx_weights import DATA

GRAPH = "model.onnx"
MAX_GRAPH = 64 * 2**20
"""Bytes of a graph without its weights; a hundred layers take 1 MB."""


@dataclass(frozen=True)
class Cache:
    """Keys and values of `length` tokens, layer by layer as the graph gives them; never changed, so that several answers may go on from it."""

    length: int
    arrays: tuple[Any, ...]


class OnnxSession:
    """The graph of a folder. Raises InputError for a file that is no ONNX graph, one whose data is cut or lies elsewhere, and one that is not of the model that config.json
    describes; MissingExtra without onnxruntime."""

    def __init__(self, folder: Path, threads: int) -> None:
        path = folder / GRAPH
        if not path.is_file():
            raise InputError(Problem(str(path), "is missing", "export the model first: compress: {export: [onnx]}"))
        self.decoder = read_decoder(folder)
        runtime = require("onnxruntime", extra="onnx")
        _check_file(path, self.decoder)
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would take the cores from the caller
        try:
            self._session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
        except Exception as refused:  # onnxruntime's errors share no base
            why = " ".join(str(refused).split())[:300]
            raise InputError(Problem(str(path), f"is refused by onnxruntime: {why}", "export the model again")) from refused
        self._value = runtime.OrtValue.ortvalue_from_numpy
        self._outputs = ["logits", *cache_names(self.decoder, "present")]
        self._past = cache_names(self.decoder, "past_key_values")
        nothing = np.zeros((1, self.decoder.kv_heads, 0, self.decoder.head_width), np.float32)
        self.empty = Cache(0, tuple(self._value(nothing) for _ in self._past))

    def run(self, ids: Sequence[int], cache: Cache, keep: int = 1) -> tuple[NDArray[np.float32], Cache]:
        """(kept, V) logits of the last `keep` tokens, of all where that is 0, and the cache with `ids` behind what it held. ids: one text's next tokens, at least one."""
        total = cache.length + len(ids)
        given: dict[str, Any] = {
            "input_ids": self._value(np.array([ids], np.int64)),
            "attention_mask": self._value(np.ones((1, total), np.int64)),
            "position_ids": self._value(np.arange(cache.length, total, dtype=np.int64)[None]),
            "num_logits_to_keep": self._value(np.array(keep, np.int64)),
        }
        given |= dict(zip(self._past, cache.arrays, strict=True))
        logits, *present = self._session.run_with_ort_values(self._outputs, given)
        found: NDArray[np.float32] = logits.numpy()[0]
        return found, Cache(total, tuple(present))


def cache_names(decoder: Decoder, side: str) -> list[str]:
    """Names of the key-value cache, `past_key_values` or `present`."""
    return [f"{side}.{layer}.{part}" for layer in range(decoder.layers) for part in ("key", "value")]


def _check_file(path: Path, decoder: Decoder) -> None:
    """The graph read without its weights: what goes in and out, and where the weights lie."""
    onnx: Any = require("onnx", extra="onnx")
    if path.stat().st_size > MAX_GRAPH:
        raise InputError(Problem(str(path), f"has more than {MAX_GRAPH} bytes without its weights", "export the model again"))
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as refused:  # protobuf's errors differ between its implementations
        raise InputError(Problem(str(path), f"is no ONNX graph: {' '.join(str(refused).split())[:200]}", "export the model again")) from refused
    data = path.with_name(DATA)
    size = data.stat().st_size if data.is_file() else 0
    fix, problems = "export the model again", []
    for held in graph.initializer:
        told = {entry.key: entry.value for entry in held.external_data}
        if not told:
            continue
        if told.get("location") != DATA:
            problems.append(Problem(f"{path}: {held.name}", f"lies in {told.get('location')!r}, not in {DATA}", fix))
        elif _end(told) > size:
            problems.append(Problem(f"{path}: {held.name}", f"ends at byte {_end(told)}, {DATA} has {size}", fix))
    cache = [decoder.kv_heads, decoder.head_width]
    wanted: dict[str, list[int]] = {name: cache for side in ("past_key_values", "present") for name in cache_names(decoder, side)}
    wanted |= {"logits": [decoder.vocabulary], "input_ids": [], "attention_mask": [], "position_ids": [], "num_logits_to_keep": []}
    found = {one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim if dim.dim_value] for one in (*graph.input, *graph.output)}
    for name in sorted(wanted.keys() | found.keys(), key=str):  # a name that is no UTF-8 comes as bytes
        if wanted.get(name) != found.get(name):
            why = f"config.json speaks of {wanted.get(name, 'nothing of this name')}, the graph of {found.get(name, 'nothing of this name')}"
            problems.append(Problem(f"{path}: {name}", why, "keep graph and config.json of one export together"))
    if problems:
        raise InputError(*problems[:8])


def _end(told: dict[str, str]) -> int:
    """Where an initializer ends; beyond every file for one that says no whole numbers."""
    try:
        start, length = int(told["offset"]), int(told["length"])
    except (KeyError, ValueError):
        return 2**63
    return start + length if start >= 0 and length >= 0 else 2**63
