"""The fallback for models that cannot follow a tree (recurrent, hybrid, or with attention of their own): every path of the tree is a row of its own, padded to the right.

Nothing is shared, so nothing is saved; values and gradients are those of the tree. Filler behind a row's end cannot reach it: all these models are causal.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from planish.data.tree import Tree
from planish.model.backbone import backbone

STRIDE = 16
"""Rows are padded up to a multiple of this, so that few shapes ever meet the machine."""


def hidden_states(model: nn.Module, tree: Tree, device: torch.device | str = "cpu") -> Tensor:
    """Last hidden states of the tree's unique tokens, from one right-padded batch of its paths: (T, H). A shared token is read from the first row that has it."""
    paths = [tree.path(leaf) for leaf in tree.leaves]
    longest = -(-max(len(path) for path in paths) // STRIDE) * STRIDE
    ids, mask = np.zeros((len(paths), longest), np.int64), np.zeros((len(paths), longest), np.int64)
    cell = np.empty(len(tree.ids), np.int64)
    for row in range(len(paths) - 1, -1, -1):  # the first row is written last
        length = len(paths[row])
        ids[row, :length], mask[row, :length] = tree.ids[paths[row]], 1
        cell[paths[row]] = row * longest + np.arange(length)
    batch = {"input_ids": torch.from_numpy(ids).to(device)}
    if (mask == 0).any():
        batch["attention_mask"] = torch.from_numpy(mask).to(device)
    hidden: Tensor = backbone(model)(**batch, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, torch.from_numpy(cell).to(device))
