"""NF4 in bitsandbytes' checkpoint layout, which transformers loads as it is: the codes of a weight, its scales, and back (QLoRA, arXiv 2305.14314; MISSION Z5)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from planish.lazy import require
from planish.model.carried import carry
from planish.model.json_object import read_json
from planish.model.quantised import BLOCK, SCALES
from planish.model.safetensors_header import weight_files
from planish.model.tensor_stream import opened, write_tensors
from planish.store.objects import write_folder

STATE = "quant_state.bitsandbytes__nf4"
STATE_BYTES = 256
"""What is told of a weight in JSON, filled up with spaces: its length is then known before the weight is read."""

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def shapes(rows: int, columns: int, double: bool) -> Shapes:
    """The tensors of one weight by the end of their names ("" is the weight itself): dtype and shape."""
    blocks = -(-rows * columns // BLOCK)
    held: Shapes = {"": ("U8", (-(-rows * columns // 2), 1)), "absmax": ("U8" if double else "F32", (blocks,)), "quant_map": ("F32", (16,))}
    if double:
        held |= {"nested_absmax": ("F32", (-(-blocks // SCALES),)), "nested_quant_map": ("F32", (256,))}
    return held | {STATE: ("U8", (STATE_BYTES,))}


def coded(weight: Tensor, double: bool) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of `shapes` of a weight (rows, columns) in fp32, by bitsandbytes itself, and the values that they stand for."""
    functional = require("bitsandbytes.functional", extra="4bit")
    codes, state = functional.quantize_4bit(weight.contiguous(), blocksize=BLOCK, compress_statistics=double, quant_type="nf4")
    told = state.as_dict(packed=False)
    found = {"": codes, **{key: value for key, value in told.items() if isinstance(value, Tensor)}}
    text = json.dumps({key: value for key, value in told.items() if not isinstance(value, Tensor)}).encode().ljust(STATE_BYTES)
    assert len(text) == STATE_BYTES, "what bitsandbytes tells of a weight has grown"
    found[STATE] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return found, functional.dequantize_4bit(codes, state).reshape(weight.shape).float()


def decoded(read: Callable[[str], Tensor], names: list[str]) -> Tensor:
    """The fp32 values of one weight from its tensors; `names` are the ends that the file has."""
    functional = require("bitsandbytes.functional", extra="4bit")
    state = functional.QuantState.from_dict({end: read(end) for end in names if end}, device=torch.device("cpu"))
    values: Tensor = functional.dequantize_4bit(read(""), state)
    return values.reshape(tuple(state.shape)).float()


def is_nf4(folder: Path) -> bool:
    """Whether config.json says that the weights are in bitsandbytes' 4 bits."""
    told = read_json(folder / "config.json").get("quantization_config") or {}
    return isinstance(told, dict) and told.get("quant_method") == "bitsandbytes" and bool(told.get("load_in_4bit"))


def plain_folder(packed: Path, target: Path) -> Path:
    """Write to `target` the plain fp32 checkpoint that the NF4 folder `packed` stands for, a weight at a time."""
    files = {name: file for file in (opened(path, whole=True) for path in weight_files(packed)) for name in file.keys()}  # noqa: SIM118 (not a dict)

    def read(name: str) -> Tensor:
        tensor: Tensor = files[name].get_tensor(name)
        return tensor

    weights = {name.removesuffix(f".{STATE}"): read(name) for name in files if name.endswith(f".{STATE}")}
    ends = {weight: ["", *(name.removeprefix(f"{weight}.") for name in files if name.startswith(f"{weight}."))] for weight in weights}
    layout: Shapes = {weight: ("F32", tuple(json.loads(bytes(state.tolist()))["shape"])) for weight, state in weights.items()}
    layout |= {name: ("F32", tuple(read(name).shape)) for name in files if not any(name == one or name.startswith(f"{one}.") for one in weights)}

    def values(name: str) -> Iterator[Tensor]:
        if name in weights:
            yield decoded(lambda end: read(f"{name}.{end}" if end else name), ends[name]).reshape(-1)
        else:
            yield read(name).float().reshape(-1)

    def fill(folder: Path) -> None:
        write_tensors(folder, layout, values)
        told: dict[str, Any] = {key: value for key, value in read_json(packed / "config.json").items() if key != "quantization_config"}
        (folder / "config.json").write_text(json.dumps(told | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        carry(packed, folder)

    return write_folder(target, fill)
