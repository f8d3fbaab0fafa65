"""One forward pass of a model's layers over the flat tokens of a prefix tree."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from planish.data.tree import Tree
from planish.model import tree_attention
from planish.model.backbone import backbone

STRIDE = {"cpu": 64, "cuda": 128}
"""Token counts are rounded up to a multiple of this. On a CPU a matrix product of a shape never seen before is compiled anew, and each compiled one is kept in memory;
FlexAttention works on blocks of 128 tokens."""


def padded_size(tree: Tree, device: torch.device | str) -> int:
    """Tokens that the layers see: the tree's and the filler behind them."""
    return len(tree.ids) + -len(tree.ids) % STRIDE.get(torch.device(device).type, 64)


def forward(model: nn.Module, tree: Tree, device: torch.device | str = "cpu", way: tree_attention.Way | None = None) -> Tensor:
    """Last hidden states of every unique token: (T, H). The model must have been loaded with attention "planish_tree". `way` overrides the kernel that suits the device."""
    size = padded_size(tree, device)
    ids, positions = (torch.from_numpy(np.pad(array, (0, size - len(array))))[None].to(device) for array in (tree.ids, tree.positions))
    output = backbone(model)(input_ids=ids, position_ids=positions, use_cache=False, tree_plan=tree_attention.plan(tree, device, size, way))
    hidden: Tensor = output.last_hidden_state[0, : len(tree.ids)]
    return hidden
