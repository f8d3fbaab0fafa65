"""The LM head over scored rows only: log-probabilities of given targets, in chunks, with the gradient formed in the forward pass when the head is frozen.

The gradient of log p(target) by the hidden state is W[target] - sum_v p_v W[v]: one vector per row, kept instead of a (rows, vocabulary) tensor. So a frozen head costs
two matrix products; a recompute in the backward pass would cost three (DESIGN, The training core 3).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

CHUNK = 512
"""Rows whose logits exist at one time: bounds the peak at CHUNK x vocabulary x 4 bytes."""


def log_probs(hidden: Tensor, weight: Tensor, target: Tensor, chunk: int = CHUNK) -> Tensor:
    """Log-probability of each target. hidden (R, H), weight (V, H), target (R,) -> (R,) in fp32 or wider. Exact for any weight; differentiable in hidden and weight."""
    if hidden.requires_grad and not weight.requires_grad:
        result: Tensor = _FrozenHead.apply(hidden, weight, target, chunk)  # type: ignore[no-untyped-call]
        return result
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return torch.cat([torch.utils.checkpoint.checkpoint(_plain, h, weight, t, use_reentrant=False) for h, t in _chunks(hidden, target, chunk)])
    return torch.cat([_plain(h, weight, t) for h, t in _chunks(hidden, target, chunk)])


def predictions(hidden: Tensor, weight: Tensor, chunk: int = CHUNK) -> Tensor:
    """The most probable next token of each row: (R, H) -> (R,)."""
    return torch.cat([(rows @ weight.t().to(rows.dtype)).argmax(-1) for rows in hidden.split(chunk)])


def _chunks(hidden: Tensor, target: Tensor, chunk: int) -> zip[tuple[Tensor, Tensor]]:
    return zip(hidden.split(chunk), target.split(chunk), strict=True)


def _plain(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    logits = (hidden @ weight.t().to(hidden.dtype)).to(_wide(hidden))
    return logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(1)


def _wide(hidden: Tensor) -> torch.dtype:
    """Sums over the vocabulary are made in fp32 at least."""
    return torch.promote_types(hidden.dtype, torch.float32)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, chunk: int) -> Tensor:
        with torch.no_grad():
            weight = weight.to(hidden.dtype)
            gradient = torch.empty_like(hidden)
            result = torch.empty(hidden.size(0), dtype=_wide(hidden), device=hidden.device)
            for start in range(0, hidden.size(0), chunk):
                rows = slice(start, start + chunk)
                logits = (hidden[rows] @ weight.t()).to(result.dtype)
                at = target[rows, None]
                chosen = logits.gather(1, at)[:, 0]
                top = logits.amax(1, keepdim=True)
                total = logits.sub_(top).exp_().sum(1, keepdim=True)
                result[rows] = chosen - top[:, 0] - total[:, 0].log()
                mean = logits.div_(total).scatter_add_(1, at, -torch.ones_like(at, dtype=result.dtype))  # p - onehot
                torch.mm(mean.to(hidden.dtype), weight, out=gradient[rows])
        ctx.save_for_backward(gradient)
        return result

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return -(gradient * upstream[0][:, None].to(gradient.dtype)), None, None, None
