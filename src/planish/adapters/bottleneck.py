"""Bottleneck adapters: a small two-layer network behind each sub-layer, x + W_up f(W_down x), with W_up zero at the start (arXiv 1902.00751)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from planish.errors import InputError, Problem
from planish.model import bottleneck
from planish.model.backbone import base_of
from planish.model.described import describe

LEARNING_RATE = 3e-4
MERGES = False


def attach(
    model: nn.Module, *, middle: int = 64, places: Literal["mlp", "attention", "both"] = "mlp", activation: Literal["gelu", "relu", "silu"] = "gelu"
) -> nn.Module:
    """Freeze the model and hang one bottleneck (or, with both, two) into every layer: 2 H m + m + H parameters each. It stays beside the base: it cannot be merged.

    At step 0 the output is the base's, bit for bit. Raises InputError where `middle` is not smaller than the model's width.
    """
    width = base_of(model).config.hidden_size
    if not 1 <= middle < width:
        raise InputError(Problem("adapter.middle", f"is {middle}, and the model is {width} wide: that is no bottleneck", f"give 1 to {width - 1}, or use full"))
    options = {"middle": middle, "places": ["attention", "mlp"] if places == "both" else [places], "activation": activation}
    bottleneck.put(model, **options)  # type: ignore[arg-type]
    describe(model, {"peft_type": "BOTTLENECK", **options})
    return model
