"""Attention on a prefix tree: a token attends to its ancestors and to what stands before it in its own segment, and to nothing else.

Registered with transformers' attention interface as "planish_tree". The model's forward is given `tree_plan`, which transformers hands down to every layer. Which plan:
siblings together on a CPU, FlexAttention on CUDA, a dense mask anywhere. Sliding windows reach back by position along the path, as in the model's own attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from planish.data.tree import Tree
from planish.model import dense_tree, flex_tree, sibling_tree

NAME = "planish_tree"
Way = Literal["siblings", "flex", "dense"]

_HARMLESS = {"position_ids", "cache_position", "position_embeddings"}
"""Tensors that models hand to every attention function and that change nothing in it: rotary positions are already in the queries and keys."""


class TreePlan(Protocol):
    """What every layer needs to know of a tree, in the form that suits the device."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None, softcap: float | None) -> Tensor:
        """query (1, heads, T, d), key and value (1, kv heads, T, d) -> (1, T, heads, d)."""
        ...


def plan(tree: Tree, device: torch.device | str = "cpu", size: int | None = None, way: Way | None = None) -> TreePlan:
    """Index the tree once for all layers. `size` counts filler tokens behind the tree's own too; nobody attends to them. `way` overrides what suits the device."""
    chosen = way or {"cpu": "siblings", "cuda": "flex"}.get(torch.device(device).type, "dense")
    if chosen == "siblings":
        return sibling_tree.plan(tree, device, size)
    return flex_tree.plan(tree, device, size) if chosen == "flex" else dense_tree.plan(tree, device, size)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    tree_plan: TreePlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, T, d), key and value (1, kv heads, T, d) -> (1, T, heads, d).

    Raises ValueError without a plan (a dense causal mask would leak across rows), and for whatever a model hands down that the tree does not know (attention sinks, position
    biases, its own mask): it would be left out in silence.
    """
    if tree_plan is None:
        raise ValueError(f"attention {NAME!r} needs tree_plan")
    if attention_mask is not None:
        raise ValueError("the model makes an attention mask of its own")
    unknown = sorted(name for name, value in others.items() if isinstance(value, Tensor) and name not in _HARMLESS)
    if unknown:
        raise ValueError(f"the model's attention takes {', '.join(unknown)}, which the prefix tree does not know")
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (tensor.to(torch.get_autocast_dtype(query.device.type)) for tensor in (query, key, value))
    if _seen is not None:
        _seen.windows.append(sliding_window)
    return tree_plan.attend(query, key, value, scaling, dropout if module.training else 0.0, sliding_window, softcap), None


@dataclass(frozen=True)
class Seen:
    """What a forward pass asked for: the window that each layer's attention was called with, and the window of each mask that transformers would have built."""

    windows: list[int | None] = field(default_factory=list)
    masks: list[int | None] = field(default_factory=list)


_seen: Seen | None = None


@contextmanager
def watched() -> Iterator[Seen]:
    """Take note of the windows while a model runs, to compare what its layers say with what its own masks would do."""
    global _seen
    _seen = Seen()
    try:
        yield _seen
    finally:
        _seen = None


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> None:
    if _seen is not None:
        _seen.masks.append(local_size)


def register() -> None:
    """Make "planish_tree" known to transformers; no dense mask is ever built for it."""
    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


register()
