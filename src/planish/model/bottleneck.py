"""Houlsby's bottleneck: x + W_up f(W_down x) behind a sub-layer, with W_up zero at the start (arXiv 1902.00751)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model.backbone import base_of, layers

SUBLAYERS = {"attention": ("self_attn", "attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe")}
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class Bottleneck(nn.Module):
    """x (..., H) -> x + W_up f(W_down x). 2 H m + m + H parameters."""

    def __init__(self, width: int, middle: int, activation: str, device: Any = None) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, middle, device=device), nn.Linear(middle, width, device=device)
        self.activation = ACTIVATIONS[activation]()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H), in the number format of x."""
        change: Tensor = self.up(self.activation(self.down(x if torch.is_autocast_enabled(x.device.type) else x.to(self.down.weight.dtype))))
        return x + change.to(x.dtype)


def put(model: nn.Module, *, middle: int, places: list[str], activation: str) -> None:
    """Freeze the model and hang a bottleneck behind each named sub-layer of every decoder layer, before the residual sum. Raises InputError where a layer has no such part."""
    model.requires_grad_(False)
    for number, layer in enumerate(layers(model)):
        for place in places:
            part = next((getattr(layer, name) for name in SUBLAYERS[place] if isinstance(getattr(layer, name, None), nn.Module)), None)
            if part is None:
                held = ", ".join(name for name, _ in layer.named_children())
                raise InputError(Problem("adapter.bottleneck", f"layer {number} has no part that is its {place}: it has {held}", "use lora"))
            device = next(part.parameters()).device
            part.bottleneck = Bottleneck(base_of(model).config.hidden_size, middle, activation, device)
            part.register_forward_hook(_behind)


def _behind(module: Any, inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (module.bottleneck(output[0]), *output[1:])
    return module.bottleneck(output)
