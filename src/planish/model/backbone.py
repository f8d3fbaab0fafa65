"""Where the parts of a causal model are, whatever its family calls them: the transformer without its head, its layers, and the wrapper that adapters put around it."""

from __future__ import annotations

from typing import Any

from torch import nn


def base_of(model: nn.Module) -> Any:
    """The causal model under a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def backbone(model: nn.Module) -> nn.Module:
    """Everything of the model before its LM head. Raises ValueError where it cannot be told from the head."""
    base = base_of(model)
    for name in (base.base_model_prefix, "model", "transformer"):
        found = getattr(base, name, None) if name else None
        if isinstance(found, nn.Module) and found is not base:
            return found
    raise ValueError(f"{type(base).__name__} has no part that is the model without its head")


def layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, first to last. Raises ValueError where no list of as many modules as the config has layers is found."""
    count = base_of(model).config.num_hidden_layers
    for module in backbone(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(base_of(model)).__name__} has no list of {count} layers")
