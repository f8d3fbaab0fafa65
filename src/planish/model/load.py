"""Loading a causal language model for training or for scoring: weights from safetensors, attention on the prefix tree, never remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from planish.errors import InputError, MissingExtra, Problem
from planish.model import tree_attention
from planish.model.layout import settle

_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(folder: Path, precision: Literal["fp32", "bf16"], *, trained: bool = False, device: str = "cpu", four_bit: bool = False) -> nn.Module:
    """The model of a folder with tree attention. In bf16 a frozen base is kept in bf16; weights that are trained themselves stay fp32 (`trained`) under autocast.

    `four_bit` keeps the linear layers of a frozen base in NF4 with doubly quantised constants (QLoRA, arXiv 2305.14314). A model that the tree cannot serve is given plain rows;
    `planish.model.layout.layout_of(model)` says so and why. Raises InputError for a model that cannot be loaded or whose logits are not those of a causal linear head,
    MissingExtra without bitsandbytes.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    dtype = torch.float32 if trained else _DTYPE[precision]
    options = _four_bit(dtype) if four_bit else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=tree_attention.NAME, trust_remote_code=False, use_safetensors=True, **options
        )
    except ValueError as unsupported:
        raise InputError(Problem(f"model: {folder}", f"cannot be loaded: {unsupported}", "use a causal model that transformers supports")) from None
    model = model.eval()
    module: nn.Module = model if four_bit and model.device.type == torch.device(device).type else model.to(device)
    for part in module.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack the weight at the first pass without gradients, into a form that passes none on afterwards
            setattr(part, "support_avx512bf16_for_cpu", False)  # noqa: B010 (typed as a tensor otherwise)
    settle(module, str(folder))
    return module


def _four_bit(dtype: torch.dtype) -> dict[str, Any]:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingExtra(Problem("four_bit", "needs the package bitsandbytes", "pip install bitsandbytes")) from None
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config}
