"""A model's word on a prefix tree: the log-probability of every scored token, from one forward pass in which shared prefixes are computed once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from planish.data.tree import Tree
from planish.model import scored_head, tree_attention

STRIDE = 64
"""Token counts are rounded up to a multiple of this: a matrix product of a shape never seen before is compiled anew on a CPU, and each compiled one is kept in memory."""


@dataclass(frozen=True)
class Scored:
    """R scored tokens of a micro-batch. log_prob, weight: (R,) fp32; sequence: (R,) which of the S sequences a token belongs to."""

    log_prob: Tensor
    weight: Tensor
    sequence: Tensor
    sequences: int

    def sums(self) -> Tensor:
        """Weighted log-probability of each sequence: (S,)."""
        return torch.zeros(self.sequences, device=self.log_prob.device, dtype=self.log_prob.dtype).index_add(0, self.sequence, self.log_prob * self.weight)


def base_of(model: nn.Module) -> Any:
    """The causal model under a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def hidden_states(model: nn.Module, tree: Tree, device: torch.device | str = "cpu") -> Tensor:
    """Last hidden states of every unique token: (T, H). The model must have been loaded with attention "planish_tree"."""
    base = base_of(model)
    more = -len(tree.ids) % STRIDE
    output = base.model(
        input_ids=torch.from_numpy(np.pad(tree.ids, (0, more)))[None].to(device),
        position_ids=torch.from_numpy(np.pad(tree.positions, (0, more)))[None].to(device),
        use_cache=False,
        tree_plan=tree_attention.plan(tree, device, len(tree.ids) + more),
    )
    hidden: Tensor = output.last_hidden_state[0, : len(tree.ids)]
    return hidden


def head_weight(model: nn.Module) -> Tensor:
    """The LM head's matrix (V, H)."""
    weight: Tensor = base_of(model).get_output_embeddings().weight
    return weight


def score(model: nn.Module, tree: Tree, precision: str, device: torch.device | str = "cpu") -> Scored:
    """Log-probabilities of the tree's scored tokens; only their rows reach the LM head. Differentiable."""
    with autocast(precision, device):
        hidden = hidden_states(model, tree, device)[torch.from_numpy(tree.scored_at).to(device)]
        log_prob = scored_head.log_probs(hidden, head_weight(model), torch.from_numpy(tree.target).to(device))
    sequences = int(tree.sequence.max()) + 1 if len(tree.sequence) else 0
    return Scored(log_prob, torch.from_numpy(tree.weight).to(device), torch.from_numpy(tree.sequence).to(device), sequences)


def autocast(precision: str, device: torch.device | str = "cpu") -> AbstractContextManager[Any]:
    """bf16 matrix products with fp32 adapters and loss, or nothing in fp32."""
    if precision == "bf16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return nullcontext()
