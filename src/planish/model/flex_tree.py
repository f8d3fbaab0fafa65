"""Tree attention on a GPU: FlexAttention with a block mask made of the tree's intervals, so that blocks which no token may see are never computed.

In depth-first order what hangs below a token is one interval, so `i sees j` is `j <= i < end[j]`: two numbers a token instead of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from planish.data.tree import Tree
from planish.model.dense_tree import padded


@dataclass(frozen=True)
class FlexPlan:
    """ends, positions: (T,) of the flat tokens, filler included. Block masks are made once per window for all layers."""

    ends: Tensor
    positions: Tensor
    compiled: bool
    masks: dict[int | None, BlockMask] = field(default_factory=dict)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None, softcap: float | None) -> Tensor:
        """query (1, heads, T, d), key and value (1, kv heads, T, d) -> (1, T, heads, d). Raises ValueError on dropout, for which FlexAttention has no place."""
        if dropout:
            raise ValueError("attention dropout cannot be applied by FlexAttention: set attention_dropout to 0 in the model's config")
        if window not in self.masks:
            self.masks[window] = self._block_mask(window)
        call = _compiled() if self.compiled else flex_attention
        cap = None if softcap is None else _cap(softcap)
        out: Tensor = call(query, key, value, score_mod=cap, block_mask=self.masks[window], scale=scaling, enable_gqa=query.size(1) != key.size(1))
        return out.transpose(1, 2)

    def _block_mask(self, window: int | None) -> BlockMask:
        ends, positions = self.ends, self.positions

        def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            seen = (j <= i) & (i < ends[j])
            return seen if window is None else seen & (positions[i] - positions[j] < window)

        size = len(ends)
        return create_block_mask(sees, None, None, size, size, device=ends.device)


def plan(tree: Tree, device: torch.device | str = "cuda", size: int | None = None) -> FlexPlan:
    """The plan of a tree; compiled on a CUDA device, as written elsewhere (slow: for tests)."""
    ends, positions = padded(tree, size or len(tree.ids))
    return FlexPlan(torch.from_numpy(ends).to(device), torch.from_numpy(positions).to(device), torch.device(device).type == "cuda")


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


@cache
def _cap(softcap: float) -> Any:
    """One function object per cap: FlexAttention compiles anew for each."""

    def capped(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped
