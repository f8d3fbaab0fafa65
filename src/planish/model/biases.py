"""The biases of a model: found, counted, and added as zeros where a family has none (BitFit, arXiv 2106.10199)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from planish.errors import InputError, Problem
from planish.model.backbone import base_of
from planish.model.targets import linear_layers


def biases(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every bias by name: of matrices and of norms."""
    return {name: parameter for name, parameter in base_of(model).named_parameters() if name.rpartition(".")[2] == "bias"}


def train_biases(model: nn.Module, add: bool) -> None:
    """Freeze everything but the biases, which are kept in fp32. With `add`, matrices of the layers that have none get one of zeros first, so that the output stays what it is.

    Raises InputError, with the count, where there is no bias to train.
    """
    model.requires_grad_(False)
    if add:
        for module in linear_layers(model).values():
            _add(module)
    found = biases(model)
    if not found:
        kind = base_of(model).config.model_type
        why = f"this {kind} model has 0 biases, so nothing would be trained"
        raise InputError(Problem("adapter.bitfit", why, "use lora or ia3, or add zero biases to its matrices with add_biases: true"))
    for module in base_of(model).modules():
        own = getattr(module, "bias", None)
        if isinstance(own, nn.Parameter):
            own.data = own.data.float()
            if module.weight.ndim == 1:  # a norm wants both in one format
                module.weight.data = module.weight.data.float()
    for parameter in found.values():
        parameter.requires_grad_(True)


def can_be_merged(model: nn.Module, added: bool) -> bool:
    """Whether the model's configuration can say that its matrices have biases: only llama's can, by two keys."""
    return not added or base_of(model).config.model_type == "llama"


def declare(model: nn.Module) -> None:
    """Write into a llama's configuration that its matrices have biases."""
    config = base_of(model).config
    config.attention_bias = config.mlp_bias = True


def _add(module: Any) -> None:
    if getattr(module, "bias", None) is None and isinstance(module, nn.Linear):
        dtype = module.weight.dtype if module.weight.is_floating_point() else torch.float32
        module.bias = nn.Parameter(torch.zeros(module.out_features, dtype=dtype, device=module.weight.device))
