"""The sizes that the memory model needs, read from a model's config alone: its modules are built on the meta device, where nothing is allocated (MISSION T7)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from planish import shelf
from planish.errors import InputError, Problem
from planish.model.account import account
from planish.model.memory_setup import Shape
from planish.model.targets import linear_layers, size
from planish.model.trunk import frozen_depth

KNOWN = {
    *(
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "phi",
        "phi3",
        "smollm3",
        "olmo",
        "olmo2",
        "granite",
        "cohere",
        "stablelm",
        "starcoder2",
        "falcon",
    ),
    *("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt"),
}
"""Families of dense decoder layers: attention and one feed-forward part each. Experts, recurrent and hybrid layers keep other things."""


@dataclass(frozen=True)
class Trained:
    """What an adapter trains: how many parameters, written as a formula, and in how many layers from the top the backward pass has work."""

    count: int
    formula: str
    layers: int


def read(folder: Path) -> tuple[Shape, nn.Module]:
    """The shape of a model, and its modules without weights. Raises InputError for an architecture whose layers the formulas do not describe."""
    path = folder / "config.json"
    family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    if family not in KNOWN:
        why = f'what a layer of the architecture "{family}" keeps is not known'
        raise InputError(Problem(str(path), why, "planish plan RECIPE --measure runs two steps of it and measures"))
    model = empty(folder)
    config: Any = model.config
    matrices = [size(module) for module in linear_layers(model).values()]
    heads = int(config.num_attention_heads)
    kv = int(getattr(config, "num_key_value_heads", None) or heads)
    wide = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    shape = Shape(
        hidden=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        kv_width=kv * wide,
        ffn=max((max(pair) for pair in matrices), default=4 * int(config.hidden_size)) if family in ("gpt2", "falcon") else _ffn(config),
        vocabulary=int(config.vocab_size),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        linear=sum(a * b for a, b in matrices),
        lora_unit=sum(a + b for a, b in matrices),
    )
    return shape, model


def empty(folder: Path) -> Any:
    """A causal model without weights. Raises InputError for one that transformers does not know."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError) as unknown:
        raise InputError(Problem(str(folder / "config.json"), f"is no causal model that transformers knows: {unknown}", "give another model")) from None


def trained(model: Any, adapter: str, options: dict[str, Any]) -> Trained:
    """What the adapter would train on the model, counted on the model itself, which is changed. Raises InputError as the adapter does."""
    plain = {key: value for key, value in options.items() if key != "init"}  # other starts are computed from weights, and count the same
    norms = adapter == "dora"  # they too are computed from weights: its matrices are LoRA's, and each has one length a row more
    with torch.device("meta"), torch.no_grad():
        put: Any = shelf.call("adapters", "lora" if norms else adapter, "attach", plain)(model)
    counted, count = account(put), int(model.config.num_hidden_layers)
    depth = frozen_depth(put)
    if adapter == "head":
        return Trained(counted.trainable, counted.formula, int(options.get("unfreeze", 0)))
    rows = sum(module.out_features for module in put.modules() if hasattr(module, "lora_A")) if norms else 0
    return Trained(counted.trainable + rows, counted.formula + (f" + {rows} lengths" if rows else ""), count - depth)


def _ffn(config: Any) -> int:
    found = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None) or getattr(config, "n_inner", None)
    return int(found or 4 * config.hidden_size)
