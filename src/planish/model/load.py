"""Loading a causal language model for training or for scoring: weights from safetensors, attention on the prefix tree, never remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from planish.errors import InputError, Problem
from planish.model import tree_attention

_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(folder: Path, precision: Literal["fp32", "bf16"], *, trained: bool = False, device: str = "cpu") -> nn.Module:
    """The model of a folder with tree attention. In bf16 a frozen base is kept in bf16; weights that are trained themselves stay fp32 (`trained`) under autocast.

    Raises InputError for an architecture whose attention is not transformers' exchangeable one.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    dtype = torch.float32 if trained else _DTYPE[precision]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=tree_attention.NAME, trust_remote_code=False, use_safetensors=True
        )
    except ValueError as unsupported:
        raise InputError(Problem(f"model: {folder}", f"cannot be loaded: {unsupported}", "use a causal model that transformers supports")) from None
    if getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True):
        raise InputError(Problem(f"model: {folder}", "uses sliding-window attention, which the prefix tree does not support yet", "use a full-attention model"))
    module: nn.Module = model.eval().to(device)
    return module
