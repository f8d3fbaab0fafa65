"""Where a Llama-shaped layer can take the scales of AWQ: in the norm or the layer whose output the scaled layers read (MISSION Z3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Layers of these families compute norm(x) * weight before, and up(x) * act(gate(x)) before down. Others scale elsewhere and are refused by name."""


class Fold(NamedTuple):
    """The layers that read one input, and the tensors of what writes it, which are divided by their scales: weight (its rows, where it is a matrix) and bias."""

    readers: tuple[str, ...]
    writer: str


def folds(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Fold], list[str]]:
    """The folds of one decoder layer (`model.layers.3.`), and the weights that no scale can be folded for: the output projection under grouped queries, where a value feeds several
    of its columns."""
    attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
    found = [
        Fold(tuple(f"{attention}{part}_proj.weight" for part in "qkv"), f"{layer}input_layernorm.weight"),
        Fold((f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight"), f"{layer}post_attention_layernorm.weight"),
        Fold((f"{mlp}down_proj.weight",), f"{mlp}up_proj.weight"),
    ]
    values, output = f"{attention}v_proj.weight", f"{attention}o_proj.weight"
    if shapes[values][0] != shapes[output][1]:
        return found, [output]
    return [*found, Fold((output,), values)], []


def apply(fold: Fold, scales: Tensor, tensors: dict[str, Tensor]) -> None:
    """Multiply the readers' columns by the scales (D,) and divide the writer's outputs by them, in `tensors`: the model computes what it did."""
    for reader in fold.readers:
        tensors[reader] = tensors[reader] * scales
    bias = fold.writer.removesuffix("weight") + "bias"
    for name in (fold.writer, bias):
        if name in tensors:
            tensors[name] = tensors[name] / (scales[:, None] if tensors[name].ndim == 2 else scales)
