"""Tree attention by one dense mask over the flat row: the plain way that every device has, and what the faster ones are checked against."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from planish.data.tree import Tree
from planish.model.sibling_tree import soft_capped


@dataclass(frozen=True)
class DensePlan:
    """mask: (1, 1, T, T) bool. positions: (T,)."""

    mask: Tensor
    positions: Tensor
    masks: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None, softcap: float | None) -> Tensor:
        """query (1, heads, T, d), key and value (1, kv heads, T, d) -> (1, T, heads, d)."""
        mask = self.mask if window is None else self._within(window)
        repeat = query.size(1) // key.size(1)
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        if softcap is not None:
            out = soft_capped(query, key, value, mask, scaling, dropout, softcap)
        else:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
        return out.transpose(1, 2)

    def _within(self, window: int) -> Tensor:
        if window not in self.masks:
            self.masks[window] = self.mask & (self.positions[:, None] - self.positions[None] < window)
        return self.masks[window]


def plan(tree: Tree, device: torch.device | str = "cpu", size: int | None = None) -> DensePlan:
    """The mask of a tree. `size` counts filler tokens behind it too; each of them sees only itself."""
    ends, positions = padded(tree, size or len(tree.ids))
    at = np.arange(len(ends))
    mask = (at[None] <= at[:, None]) & (at[:, None] < ends[None])
    return DensePlan(torch.from_numpy(mask[None, None]).to(device), torch.from_numpy(positions).to(device))


def padded(tree: Tree, size: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Subtree ends and positions, with filler tokens behind the tree that nobody else sees."""
    filler = np.arange(len(tree.ids), size)
    return np.concatenate([tree.ends, filler + 1]), np.concatenate([tree.positions, np.zeros_like(filler)])
