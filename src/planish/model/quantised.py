"""The 4-bit base: what NF4 costs in bits, what it takes in memory, and its way back to plain weights (QLoRA, arXiv 2305.14314; MISSION A5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from planish.errors import InputError, Problem
from planish.lazy import require

BLOCK = 64
"""Weights that share a scale."""
SCALES = 256
"""Scales that share one of their own, when they are quantised too."""


def bits(double: bool = True) -> float:
    """Bits a weight: 4, and its part of an fp32 scale per block; or of an 8-bit scale, and of an fp32 one per 256 blocks."""
    return 4 + (8 / BLOCK + 32 / (BLOCK * SCALES) if double else 32 / BLOCK)


def size_in_bytes(parameters: float, double: bool = True) -> float:
    """Bytes of so many weights in NF4 with their scales."""
    return parameters * bits(double) / 8


def four_bit_layers(model: nn.Module) -> dict[str, Any]:
    """The model's NF4 layers by name; under adapters, the layers that they sit on."""
    return {name: module for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}


def measured_bits(model: nn.Module) -> float:
    """Bits a weight that the 4-bit layers really take, scales and all. Raises InputError for a model without one."""
    layers = list(four_bit_layers(model).values())
    if not layers:
        raise InputError(Problem("model", "has no 4-bit layer", "load it in 4 bits"))
    taken = sum(_bytes(layer.weight) for layer in layers)
    return float(8 * taken / sum(layer.weight.quant_state.shape.numel() for layer in layers))


def _bytes(weight: Any) -> int:
    """A quantised weight with its scales. The tables of the 16 and the 256 levels are the same for every layer and are left out."""
    state = weight.quant_state
    total = weight.numel() * weight.element_size() + state.absmax.numel() * state.absmax.element_size()
    return int(total + (state.state2.absmax.numel() * state.state2.absmax.element_size() if state.nested else 0))


def dequantised(model: nn.Module) -> nn.Module:
    """Put plain fp32 layers in the place of the 4-bit ones, with the values that these stand for. The model is changed and given back."""
    functional = require("bitsandbytes.functional", extra="4bit")
    for name, layer in four_bit_layers(model).items():
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        plain.weight = nn.Parameter(weight.reshape(layer.out_features, layer.in_features), requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain)
    owner: Any = model
    for key in ("hf_quantizer", "quantization_method"):
        if hasattr(owner, key):
            setattr(owner, key, None)
    owner.is_quantized = owner.is_loaded_in_4bit = False
    if hasattr(owner.config, "quantization_config"):
        del owner.config.quantization_config
    return model.to(torch.float32)


def refuse_merge(model: nn.Module, where: str) -> None:
    """Raises InputError for a model in 4 bits: what a merge adds is less than one step of its 16 levels, and would be rounded away."""
    if four_bit_layers(model):
        why = "its base is in 4 bits, whose 16 levels would round the adapter away"
        raise InputError(
            Problem(where, why, "merge into the original 16-bit base (the default), or with merge: dequantised into the dequantised one; score either again")
        )
