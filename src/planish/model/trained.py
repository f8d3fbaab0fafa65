"""What training leaves: adapter files in PEFT's layout, loaded again for evaluation and merged for export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model.bundled import identity
from planish.model.chat import Chat
from planish.model.checkpoint import trainable
from planish.model.load import load
from planish.store.objects import file_hash


def changed(model: nn.Module, start: Mapping[str, Tensor]) -> float:
    """Norm of the change of the trained weights over their norm at the start; 0 means that training did nothing."""
    moved = sum(float((parameter.detach() - start[name]).float().pow(2).sum()) for name, parameter in trainable(model).items())
    before = sum(float(tensor.float().pow(2).sum()) for tensor in start.values())
    return float((moved / max(before, 1e-12)) ** 0.5)


def save(model: Any, chat: Chat, folder: Path, base: Path) -> None:
    """`adapter/` for a PEFT model, `model/` for full weights, each with the tokenizer. The adapter's config names the base by hash, not by a path of this machine."""
    if hasattr(model, "peft_config"):
        for config in model.peft_config.values():
            config.base_model_name_or_path = f"sha256:{identity(base)}"
        model.save_pretrained(folder / "adapter", safe_serialization=True, save_embedding_layers=False)
        (folder / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's template card names no facts; the run report is the card
    else:
        model.save_pretrained(folder / "model", safe_serialization=True)
        chat.save(folder / "model")  # a whole model: exporters and other tools open it by itself
    chat.save(folder / "tokenizer")


def open_trained(base: Path, trained: Path, precision: Literal["fp32", "bf16"]) -> nn.Module:
    """The base with the adapter on it, or the full weights, ready to score. Adapter weights are read from safetensors only.

    Raises InputError when the adapter was trained on another base.
    """
    if (trained / "model").is_dir():
        return load(trained / "model", precision)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig.from_pretrained(str(trained / "adapter"))
    if config.base_model_name_or_path != f"sha256:{identity(base)}":
        why = f"was trained on the base {config.base_model_name_or_path}, not on {base} (sha256:{identity(base)})"
        raise InputError(Problem(str(trained / "adapter"), why, "give the base that it was trained on"))
    config.base_model_name_or_path = None
    module: nn.Module = get_peft_model(load(base, precision), config)
    load_adapter(module, trained / "adapter")
    return module.eval()


def load_adapter(model: nn.Module, adapter: Path) -> None:
    """Put an adapter's weights, from safetensors, into a model that has an adapter of the same kind. Raises ValueError for a tensor without a place."""
    from peft.utils.save_and_load import set_peft_model_state_dict
    from safetensors.torch import load_file

    found: Any = set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    if found.unexpected_keys:
        raise ValueError(f"the adapter holds tensors that the base has no place for: {found.unexpected_keys[:3]}")


def weights_hash(trained: Path) -> str:
    """What the trained weights are, by content."""
    where = trained / "adapter" / "adapter_model.safetensors"
    return file_hash(where if where.is_file() else next((trained / "model").glob("*.safetensors")))


def merged(base: Path, trained: Path) -> nn.Module:
    """The tuned weights in fp32 with no adapter left: W + (alpha / r) B A (MISSION A12)."""
    model: Any = open_trained(base, trained, "fp32")
    with torch.inference_mode():
        plain: nn.Module = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return plain
