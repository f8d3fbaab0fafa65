"""Codes in 32-bit words: the three layouts that transformers and vLLM read (compressed-tensors `pack-quantized`, GPTQ, AWQ), written and read back (MISSION Z3, Z4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.rtn import Coded, Grid

LayoutName = Literal["compressed-tensors", "gptq", "awq"]
Layout = dict[str, tuple[str, tuple[int, ...]]]
SCALES = torch.float16
"""The dtype of the scales in every layout."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns stands in each nibble of a word, lowest first: the order in which AWQ's kernels take them apart."""


@dataclass(frozen=True)
class Form:
    """How a checkpoint's codes are kept."""

    layout: LayoutName
    bits: int
    group: int
    symmetric: bool
    act_order: bool = False

    @property
    def half(self) -> int:
        """What is added to a code to make it 0 or more."""
        return int(2 ** (self.bits - 1))


def words(codes: Tensor, bits: int) -> Tensor:
    """codes (R, C) from 0 to 2^b - 1 as (R, ceil(C b / 32)) int32: one after the other from the lowest bit on, across the borders of words too."""
    values = codes.numpy().astype(np.uint8)
    planes = ((values[..., None] >> np.arange(bits, dtype=np.uint8)) & 1).reshape(len(values), -1)
    padded = np.pad(planes, ((0, 0), (0, -planes.shape[1] % 32)))
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view("<i4").copy())


def numbers(packed: Tensor, bits: int, count: int) -> Tensor:
    """The reverse: (R, count) int32."""
    planes = np.unpackbits(np.ascontiguousarray(packed.numpy()).view(np.uint8), axis=1, bitorder="little")[:, : count * bits]
    places = (1 << np.arange(bits)).astype(np.int32)
    return torch.from_numpy((planes.reshape(len(planes), count, bits) * places).sum(-1, dtype=np.int32))


def shapes(layer: str, rows: int, columns: int, form: Form) -> Layout:
    """The tensors that stand for the weight (rows, columns) of `layer`: name -> dtype, shape. Raises InputError where they do not fill whole words."""
    groups, bits = columns // form.group, form.bits
    if form.layout == "compressed-tensors":
        found: Layout = {"weight_packed": ("I32", (rows, -(-columns * bits // 32))), "weight_scale": ("F16", (rows, groups)), "weight_shape": ("I64", (2,))}
        return _named(layer, found | ({} if form.symmetric else {"weight_zero_point": ("I32", (-(-rows * bits // 32), groups))}))
    if rows * bits % 32 or columns * bits % 32:
        why = f"{rows} x {columns} codes of {bits} bits do not fill whole words, as the {form.layout} layout wants"
        raise InputError(Problem(layer, why, "choose layout: compressed-tensors"))
    small: Layout = {"qzeros": ("I32", (groups, rows * bits // 32)), "scales": ("F16", (groups, rows))}
    if form.layout == "awq":
        return _named(layer, {"qweight": ("I32", (columns, rows * bits // 32)), **small})
    return _named(layer, {"qweight": ("I32", (columns * bits // 32, rows)), **small, "g_idx": ("I32", (columns,))})


def pack(layer: str, coded: Coded, form: Form) -> dict[str, Tensor]:
    """The tensors of `shapes`, filled."""
    codes, scale, zero = coded.codes + form.half, coded.grid.scale, coded.grid.zero + form.half
    if form.layout == "compressed-tensors":
        found = {"weight_packed": words(codes, form.bits), "weight_scale": scale, "weight_shape": torch.tensor(coded.codes.shape)}
        return _named(layer, found | ({} if form.symmetric else {"weight_zero_point": words(zero.T, form.bits).T}))
    if form.layout == "awq":
        return _named(layer, {"qweight": words(_interleaved(codes.T), 4), "qzeros": words(_interleaved(zero.T), 4), "scales": scale.T})
    found = {"qweight": words(codes, form.bits).T, "qzeros": words(zero.T - 1, form.bits), "scales": scale.T, "g_idx": coded.group_of}
    return _named(layer, found)


def unpack(layer: str, read: Callable[[str], Tensor], rows: int, columns: int, form: Form) -> Tensor:
    """(rows, columns) fp32: what the tensors of a layer stand for. `read` gives a tensor by its name."""
    groups, bits = columns // form.group, form.bits
    if form.layout == "compressed-tensors":
        codes, scale = numbers(read(f"{layer}.weight_packed"), bits, columns), read(f"{layer}.weight_scale")
        zero = torch.full((rows, groups), form.half) if form.symmetric else numbers(read(f"{layer}.weight_zero_point").T, bits, rows).T
    elif form.layout == "awq":
        codes, scale = _straight(numbers(read(f"{layer}.qweight"), 4, rows)).T, read(f"{layer}.scales").T
        zero = _straight(numbers(read(f"{layer}.qzeros"), 4, rows)).T
    else:
        codes, scale = numbers(read(f"{layer}.qweight").T, bits, columns), read(f"{layer}.scales").T
        zero = numbers(read(f"{layer}.qzeros"), bits, rows).T + 1
    return Coded(codes - form.half, Grid(scale.float(), zero - form.half, bits), form.group).values()


def quantization_config(form: Form, kept: list[str]) -> dict[str, Any]:
    """What config.json says of the weights. `kept` are the linear layers that were left as they are."""
    asked: dict[str, Any]
    if form.layout == "gptq":
        asked = {"bits": form.bits, "group_size": form.group, "desc_act": False, "static_groups": form.act_order, "sym": True}
        return {"quant_method": "gptq", **asked, "checkpoint_format": "gptq", "lm_head": False}
    if form.layout == "awq":
        asked = {"bits": 4, "group_size": form.group, "zero_point": True, "version": "gemm"}
        return {"quant_method": "awq", **asked, "modules_to_not_convert": kept or None}
    weights = {"num_bits": form.bits, "type": "int", "symmetric": form.symmetric, "strategy": "group", "group_size": form.group}
    weights |= {"dynamic": False, "actorder": "static" if form.act_order else None, "observer": "minmax"}
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None, "format": "pack-quantized"}
    said = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed", "config_groups": {"group_0": scheme}}
    return said | {"ignore": kept, "kv_cache_scheme": None, "global_compression_ratio": None}


def form_of(config: Mapping[str, Any], where: str) -> Form:
    """The form that a configuration's `quantization_config` speaks of. Raises InputError for one that is not of these layouts."""
    said = config.get("quantization_config") or {}
    method = said.get("quant_method")
    try:
        if method == "gptq" and said["sym"] and not said["desc_act"]:
            return Form("gptq", said["bits"], said["group_size"], True, bool(said.get("static_groups")))
        if method == "awq" and said["version"] == "gemm" and said["bits"] == 4:
            return Form("awq", 4, said["group_size"], False)
        if method == "compressed-tensors" and said["format"] == "pack-quantized":
            [scheme] = said["config_groups"].values()
            weights = scheme["weights"]
            if weights["strategy"] == "group" and weights["type"] == "int" and weights.get("actorder") in (None, "static"):
                return Form("compressed-tensors", weights["num_bits"], weights["group_size"], weights["symmetric"], weights.get("actorder") == "static")
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise InputError(Problem(f"{where}: quantization_config", f"is none that is read here ({method})", "give a folder that planish exported"))


def _named(layer: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{layer}.{part}": value for part, value in tensors.items()}


def _interleaved(codes: Tensor) -> Tensor:
    return codes.reshape(len(codes), -1, 8)[..., list(AWQ_ORDER)].reshape(len(codes), -1)


def _straight(codes: Tensor) -> Tensor:
    back = [AWQ_ORDER.index(place) for place in range(8)]
    return codes.reshape(len(codes), -1, 8)[..., back].reshape(len(codes), -1)
