"""Loading a causal language model for training or for scoring: weights from safetensors, attention on the prefix tree, never remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from planish.errors import InputError, MissingExtra, Problem
from planish.model import tree_attention
from planish.model.json_object import read_json
from planish.model.layout import settle
from planish.model.safetensors_header import weight_files
from planish.model.tensor_stream import opened
from planish.model.weight_names import shapes

_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(folder: Path, precision: Literal["fp32", "bf16"], *, trained: bool = False, device: str = "cpu", four_bit: bool = False) -> nn.Module:
    """The model of a folder with tree attention. In bf16 a frozen base is kept in bf16; weights that are trained themselves stay fp32 (`trained`) under autocast.

    `four_bit` keeps the linear layers of a frozen base in NF4 with doubly quantised constants (QLoRA, arXiv 2305.14314). A model that the tree cannot serve is given plain rows;
    `planish.model.layout.layout_of(model)` says so and why. Raises InputError for files that are not sound or lack weights, for a model that cannot be loaded, and for one whose
    logits are not those of a causal linear head, MissingExtra without bitsandbytes.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    dtype = torch.float32 if trained else _DTYPE[precision]
    options: dict[str, Any] = _four_bit(dtype) if four_bit else {}
    _refuse_unsound(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=tree_attention.NAME,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except ValueError as unsupported:
        raise InputError(Problem(f"model: {folder}", f"cannot be loaded: {unsupported}", "use a causal model that transformers supports")) from None
    model, told = loaded
    _refuse_drawn(folder, model, told)
    model = model.eval()
    module: nn.Module = model if four_bit and model.device.type == torch.device(device).type else model.to(device)
    for part in module.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack the weight at the first pass without gradients, into a form that passes none on afterwards
            setattr(part, "support_avx512bf16_for_cpu", False)  # noqa: B010 (typed as a tensor otherwise)
    settle(module, str(folder))
    return module


def _refuse_unsound(folder: Path) -> None:
    """Raises InputError for files whose headers do not hold, and for whole numbers where weights should be: transformers would take those for weights."""
    shapes(folder)
    if not read_json(folder / "config.json").get("quantization_config"):
        for path in weight_files(folder):
            opened(path)


def _refuse_drawn(folder: Path, model: Any, told: dict[str, Any]) -> None:
    """Raises InputError for weights that the files lack or have in another shape, which transformers would draw at random, and for an output matrix beside the embedding that
    it should be."""
    lacking = {name: "is missing from the files" for name in told["missing_keys"]}
    lacking |= {name: f"is {tuple(stored)} in the files, and {tuple(wanted)} by config.json" for name, stored, wanted in told["mismatched_keys"]}
    if lacking:
        raise InputError(*(Problem(f"model: {folder}: {name}", why, "save the whole model again") for name, why in sorted(lacking.items())[:8]))
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    if model.config.get_text_config().tie_word_embeddings and outer is not None and outer.weight is not inner.weight:
        why = "the files hold an output matrix that is not the embedding, and config.json says that they are one"
        raise InputError(Problem(f"model: {folder}", why, "take it out of the files, or set tie_word_embeddings to false"))


def _four_bit(dtype: torch.dtype) -> dict[str, Any]:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingExtra(Problem("four_bit", "needs the package bitsandbytes", "pip install bitsandbytes")) from None
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config}
