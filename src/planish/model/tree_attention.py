"""Attention on a prefix tree: a token attends to its ancestors and to what stands before it in its own segment, and to nothing else.

Registered with transformers' attention interface as "planish_tree". The model's forward is given `tree_plan=TreePlan`, which transformers hands down to every layer.
On a CPU one long flat row is slow whatever its mask, so siblings are computed together: one masked call per group of segments with the same parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from planish.data.tree import Tree

NAME = "planish_tree"


@dataclass(frozen=True)
class Siblings:
    """Segments with one parent, padded to the longest. N segments of up to L tokens, A ancestors.

    query: (N, L) flat index, 0 on padding. ancestors: (A,) flat index. mask: (N, 1, L, A + L) bool, or None for a lone root, which is plainly causal.
    """

    query: Tensor
    ancestors: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class TreePlan:
    """What every layer needs to know of a tree. gather: (T,) where each flat token lies in the groups' outputs laid end to end."""

    groups: tuple[Siblings, ...]
    gather: Tensor


def plan(tree: Tree, device: torch.device | str = "cpu", size: int | None = None) -> TreePlan:
    """Group the segments by parent and index them once for all layers. `size` counts filler tokens behind the tree's own too; nobody attends to them."""
    families: dict[tuple[int, int], list[int]] = {}
    for index, segment in enumerate(tree.segments):
        # roots share nothing, but are padded together like siblings; lengths are bucketed by powers of two so that one long segment does not pad many short ones
        families.setdefault((segment.parent, segment.length.bit_length()), []).append(index)
    groups, gather, offset = [], np.zeros(size or len(tree.ids), np.int64), 0
    for members in families.values():
        starts = np.array([tree.segments[index].start for index in members])
        lengths = np.array([tree.segments[index].length for index in members])
        longest = int(lengths.max())
        inside = np.arange(longest)[None] < lengths[:, None]
        query = np.where(inside, starts[:, None] + np.arange(longest)[None], 0)
        gather[query[inside]] = offset + np.flatnonzero(inside)
        offset += query.size
        ancestors = tree.ancestors(members[0])
        groups.append(Siblings(torch.from_numpy(query).to(device), torch.from_numpy(ancestors).to(device), _mask(len(members), longest, ancestors, device)))
    return TreePlan(tuple(groups), torch.from_numpy(gather).to(device))


def _mask(members: int, longest: int, ancestors: NDArray[np.int64], device: torch.device | str) -> Tensor | None:
    """Causal inside a segment, everything on the ancestors. Padding stands at the end, where no real query sees it."""
    if not len(ancestors):
        return None
    own = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.cat([torch.ones(longest, len(ancestors), dtype=torch.bool), own], 1)
    return mask.expand(members, 1, -1, -1).to(device)


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
    **_: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, T, d), key and value (1, kv heads, T, d) -> (1, T, heads, d). Refuses to run without a plan: a dense causal mask would leak across rows."""
    if tree_plan is None:
        raise ValueError(f"attention {NAME!r} needs tree_plan")
    repeat = query.size(1) // key.size(1)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, d)
    pieces = []
    for group in tree_plan.groups:
        members, longest = group.query.shape
        own_q, own_k, own_v = (_take(tensor, group.query).transpose(1, 2) for tensor in (q, k, v))  # (N, heads, L, d)
        if group.mask is not None:
            own_k, own_v = (
                torch.cat([_take(tensor, group.ancestors).transpose(0, 1).expand(members, -1, -1, -1), own], 2) for tensor, own in ((k, own_k), (v, own_v))
            )
        if repeat > 1:
            own_k, own_v = own_k.repeat_interleave(repeat, 1), own_v.repeat_interleave(repeat, 1)
        out = F.scaled_dot_product_attention(
            own_q,
            own_k,
            own_v,
            attn_mask=group.mask,
            dropout_p=dropout if module.training else 0.0,
            is_causal=group.mask is None and longest > 1,
            scale=scaling,
        )
        pieces.append(out.transpose(1, 2).reshape(members * longest, query.size(1), -1))
    flat = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return _take(flat, tree_plan.gather)[None], None


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """rows (T, ...), index of any shape -> index.shape + (...). By index_select, whose backward adds rows instead of sorting indices."""
    return rows.index_select(0, index.flatten()).view(*index.shape, *rows.shape[1:])


def register() -> None:
    """Make "planish_tree" known to transformers; no dense mask is ever built for it."""
    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


register()
