"""Low-rank starts that are not zero: from the base's largest directions (PiSSA, arXiv 2404.02948) and from the error of a 4-bit base (LoftQ, arXiv 2310.08659, one iteration).

From PiSSA's start, an adapter is saved as the difference that it made to the untouched base, so that every loader finds a plain LoRA: s (B A - B0 A0), of twice the rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.backbone import base_of


def remember(model: Any) -> None:
    """Keep the adapter's start. PEFT has taken s B0 A0 out of the base, so that the output is what it was up to rounding."""
    base_of(model).planish_start = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name}


def started(model: Any) -> dict[str, Tensor] | None:
    """The start that must be taken off before the adapter is saved, or None."""
    found: dict[str, Tensor] | None = getattr(base_of(model), "planish_start", None)
    return found


def moves(model: Any) -> bool:
    """Whether the adapter is no mere zero before training: with it switched off, the model is not the one that training starts from."""
    return started(model) is not None or getattr(base_of(model), "planish_moved", False)


def as_plain(tensors: dict[str, Tensor], start: dict[str, Tensor], config: Any) -> tuple[dict[str, Tensor], Any]:
    """The saved tensors of an adapter and its configuration as a LoRA of twice the rank on the untouched base, with the same scale."""
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        own = start[key.replace("lora_A.weight", "lora_A.default.weight").replace("lora_B.weight", "lora_B.default.weight")].to(value.device)
        out[key] = torch.cat([value, own] if "lora_A" in key else [value, -own], 0 if "lora_A" in key else 1).contiguous()
    growth = 2**0.5 if config.use_rslora else 2
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, config.lora_alpha * growth, True
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: alpha * growth for name, alpha in config.alpha_pattern.items()}
    return out, config


def from_quantisation_error(model: Any) -> None:
    """Start every adapter from the best low-rank picture of what NF4 lost of its layer: W - dequantised(W), read from the base's own files, a matrix at a time.

    The output at step 0 is then nearer to the 16-bit base than the 4-bit base is. Raises InputError where the files are gone.
    """
    from bitsandbytes.functional import dequantize_4bit
    from safetensors import safe_open

    folder = Path(base_of(model).config._name_or_path)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(Problem("adapter.init", f"loftq reads the base's 16-bit weights, and {folder} has none", "give the base as a folder"))
    places: dict[str, Any] = {}
    for path in files:
        opened: Any = safe_open(str(path), framework="pt")
        places |= dict.fromkeys(opened.keys(), opened)
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_A") or not len(layer.lora_A):
            continue
        weight, key = layer.base_layer.weight, f"{name.removeprefix('base_model.model.')}.weight"
        held = dequantize_4bit(weight.data, weight.quant_state).float()
        error = places[key].get_tensor(key).to(held.device).float() - held
        rank, scale = layer.r["default"], layer.scaling["default"] ** 0.5
        u, s, v = torch.linalg.svd(error, full_matrices=False)
        root = s[:rank].sqrt()
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(root[:, None] * v[:rank] / scale)
            layer.lora_B["default"].weight.copy_(u[:, :rank] * root / scale)
    base_of(model).planish_moved = True
