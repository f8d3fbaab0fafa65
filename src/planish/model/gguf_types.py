"""Which type each tensor of a quantised file gets: llama.cpp's mix (`llama_tensor_get_type`) for the llama architecture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import gguf

from planish.model.ggml import GgmlType, block_columns

Quant = Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_NL"]

FILE_TYPES: dict[str, gguf.LlamaFileType] = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q6_K": gguf.LlamaFileType.MOSTLY_Q6_K,
    "Q5_K_M": gguf.LlamaFileType.MOSTLY_Q5_K_M,
    "Q4_K_M": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "Q3_K_M": gguf.LlamaFileType.MOSTLY_Q3_K_M,
    "Q2_K": gguf.LlamaFileType.MOSTLY_Q2_K,
    "IQ4_NL": gguf.LlamaFileType.MOSTLY_IQ4_NL,
}
BASE: dict[str, GgmlType] = {
    "F16": GgmlType.F16,
    "Q8_0": GgmlType.Q8_0,
    "Q6_K": GgmlType.Q6_K,
    "Q5_K_M": GgmlType.Q5_K,
    "Q4_K_M": GgmlType.Q4_K,
    "Q3_K_M": GgmlType.Q3_K,
    "Q2_K": GgmlType.Q2_K,
    "IQ4_NL": GgmlType.IQ4_NL,
}
SMALLER_BLOCKS = {
    GgmlType.Q2_K: GgmlType.Q4_0,
    GgmlType.Q3_K: GgmlType.Q4_0,
    GgmlType.Q4_K: GgmlType.Q5_0,
    GgmlType.Q5_K: GgmlType.Q5_1,
    GgmlType.Q6_K: GgmlType.Q8_0,
}
"""The type of 32-value blocks that stands in when a row does not divide into blocks of 256."""

LAYER = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Choice:
    """The type a tensor is written as; `wanted` differs from it where the mix's type did not fit the row length."""

    wanted: GgmlType
    written: GgmlType


def use_more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's rule for the sensitive layers: the first and last eighth, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensor_type(name: str, shape: tuple[int, ...], quant: Quant, *, layers: int, tied: bool, sharing: int = 1, important: bool = False) -> Choice:
    """The type of the tensor `name` (GGUF naming) of `shape` (rows, columns). `tied`: the embedding is also the output matrix, and is typed as one.

    `sharing` is how many query heads read one value head; `important`: the file has an importance matrix."""
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith("_norm.weight"):
        return Choice(GgmlType.F32, GgmlType.F32)
    base = BASE[quant]
    if base is GgmlType.F16:
        return Choice(base, base)
    wanted: GgmlType = base
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        # llama.cpp asks here whether the *base* type fits, and takes Q8_0 as its own choice, not as a fallback: it is not counted as one.
        wanted = GgmlType.Q8_0 if base is GgmlType.Q8_0 or shape[-1] % block_columns(base) else GgmlType.Q6_K
    elif match := LAYER.fullmatch(name):
        wanted = part_type(match[2], int(match[1]), quant, layers=layers, sharing=sharing, important=important)
    return Choice(wanted, fitting(wanted, shape[-1]))


def part_type(part: str, layer: int, quant: Quant, *, layers: int, sharing: int, important: bool) -> GgmlType:
    """What the mix wants for one matrix of a layer, whatever its shape."""
    base = BASE[quant]
    if part == "attn_qkv.weight":  # Phi 3's, fused
        return {"Q3_K_M": GgmlType.Q4_K, "Q4_K_M": GgmlType.Q5_K, "Q5_K_M": GgmlType.Q6_K}.get(quant, base)
    down, value = part == "ffn_down.weight", part == "attn_v.weight"
    if quant in ("Q4_K_M", "Q5_K_M") and (down or value):
        return GgmlType.Q6_K if use_more_bits(layer, layers) else base
    if quant == "Q3_K_M":
        early = layer < (2 if value else layers // 16)
        return (GgmlType.Q5_K if early else GgmlType.Q4_K) if down or value else GgmlType.Q4_K if part == "attn_output.weight" else base
    if quant == "Q2_K" and (down or value or part == "attn_output.weight"):
        return GgmlType.Q4_K if value and sharing >= 4 else GgmlType.Q3_K
    if quant == "IQ4_NL" and ((value and sharing >= 4) or (down and layer < layers // 8 and not important)):
        return GgmlType.Q5_K
    return base


def fitting(wanted: GgmlType, columns: int) -> GgmlType:
    """`wanted`, or what llama.cpp writes instead for rows of `columns` values: smaller blocks, and F16 when those do not fit either."""
    if columns % block_columns(wanted) == 0:
        return wanted
    smaller = SMALLER_BLOCKS.get(wanted)
    return smaller if smaller is not None and columns % block_columns(smaller) == 0 else GgmlType.F16
