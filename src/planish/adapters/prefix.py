"""Prefix tuning: n learned keys and values before those of every layer, and nothing else trained; they cost cache in every request (arXiv 2101.00190)."""

from __future__ import annotations

import torch
from torch import nn

from planish.errors import InputError, Problem
from planish.model.backbone import base_of
from planish.model.described import describe
from planish.model.layout import layout_of
from planish.model.virtual_tokens import Table, VirtualTokens, key_shape, refuse_long, tell_length

LEARNING_RATE = 1e-2
MERGES = False
UNLIKE_BASE = "every token attends to the learned keys too"


def attach(model: nn.Module, *, tokens: int = 20) -> nn.Module:
    """Freeze the model and learn layers x 2 x `tokens` x (key heads x width) values, drawn from a normal distribution as PEFT does.

    The output at step 0 is not the base's: every token attends to the learned keys too. On the prefix tree they stand above every root.
    Raises InputError for more tokens than a quarter of the context, and for a model whose layers are not all attention.
    """
    refuse_long(model, tokens, 0.25)
    if layout_of(model).kind == "rows":
        raise InputError(Problem("adapter.prefix", f"needs attention in every layer ({layout_of(model).reason})", "use lora"))
    model.requires_grad_(False)
    count, heads, width = key_shape(base_of(model).config)
    start = torch.randn(tokens, count * 2 * heads * width).to(next(model.parameters()).device)
    VirtualTokens(Table(start), tokens, keys=True).put(model)
    describe(model, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": tokens})
    tell_length(model, tokens)
    return model
