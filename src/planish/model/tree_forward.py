"""One forward pass of a model's layers over the flat tokens of a prefix tree, and the number format that it runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from planish.data.tree import Tree
from planish.model import tree_attention
from planish.model.backbone import backbone
from planish.model.virtual_tokens import rooted

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
    whole = rooted(tree, model)  # with learned tokens above, where the model has any
    plan = tree_attention.plan(whole, device, size + len(whole.ids) - len(tree.ids), way)
    output = backbone(model)(input_ids=ids, position_ids=positions, use_cache=False, tree_plan=plan)
    hidden: Tensor = output.last_hidden_state[0, : len(tree.ids)]
    return hidden


def autocast(precision: str, device: torch.device | str = "cpu") -> AbstractContextManager[Any]:
    """bf16 or fp16 matrix products with fp32 adapters and loss, or nothing in fp32."""
    if precision in ("bf16", "fp16"):
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
    return nullcontext()
