"""Activation checkpointing: a layer keeps its input only and is computed again in the backward pass. It costs 2N a token and is used only where memory asks for it (MISSION T7)."""

from __future__ import annotations

import functools
from typing import Any

import torch.utils.checkpoint
from torch import nn

from planish.model.backbone import layers
from planish.model.trunk import frozen_depth


def checkpoint_activations(model: nn.Module, on: bool = True) -> int:
    """Recompute every layer that has a backward pass, or none. Gives the number of layers that will be.

    Frozen layers at the bottom keep nothing anyway and are left alone, and the embeddings are not asked for a gradient, as transformers' own switch would do with adapters: the
    backward pass still stops where nothing below is trained. The random state is kept per layer, so dropout masks are the same in both passes.
    """
    stack = layers(model)
    depth = frozen_depth(model) if on else len(stack)
    for index, layer in enumerate(stack):
        if getattr(layer.__dict__.get("forward"), "func", None) is _again:
            del layer.forward
        if index >= depth:
            layer.forward = functools.partial(_again, layer)
    return len(stack) - depth


def _again(layer: nn.Module, *inputs: Any, **named: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(type(layer).forward, layer, *inputs, use_reentrant=False, **named)
