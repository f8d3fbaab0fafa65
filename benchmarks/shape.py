"""SmolLM2-135M's shape with random weights and fewer layers, for claims about the cost of a layer; its real tokenizer files where a side needs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import peer
import torch
from torch import nn

from planish.adapters import lora
from planish.model.bundled import locate

_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def write(folder: Path, *, layers: int, vocabulary: int = 49152) -> Path:
    """A random llama of SmolLM2's widths; the same weights on every call."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = locate("smollm2-135m-instruct")
    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers, config.vocab_size, config.dtype = layers, vocabulary, torch.float32
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / file, folder / file)
    return folder


def plain(folder: Path, precision: str, device: str) -> nn.Module:
    """The same weights and adapters under transformers' own SDPA."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=_DTYPE[precision], attn_implementation="sdpa")
    return peer.draw_adapters(lora.attach(base.to(device), r=peer.R)).train()
