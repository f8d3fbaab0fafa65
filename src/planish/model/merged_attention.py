"""Attention to a shared prefix and to a unit's own tokens as two calls, merged by their log-sum-exps: no key is copied per unit and no mask covers the prefix.

out = sum_b exp(lse_b - lse) out_b with lse = log sum_b exp(lse_b). The backward pass of each block is the kernel's own, given the merged output and lse, which makes the
block's probabilities those of the whole softmax (as in ring attention, arXiv 2310.01889).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_FORWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def merging_pays(members: int, longest: int, ancestors: int) -> bool:
    """Whether two merged calls beat one masked call over copied keys: where much would be copied and the units are short beside it.

    Measured on 2 cores with AVX512_BF16, 9 query and 3 key heads of 64, forward and backward, 9 interleaved pairs per shape, fp32 and bf16: 1.6 to 1.8 times faster at 1,000
    ancestors and 16 units of 100, 1.35 at 512 and 8 of 64, 2.9 at 64 and 32 of 8; equal to 0.96 at the edge of this rule; 0.7 to 0.9 below it.
    """
    return ancestors >= 512 or (members * ancestors >= 1024 and ancestors >= 4 * longest)


def merged_attention(query: Tensor, before_k: Tensor, before_v: Tensor, own_k: Tensor, own_v: Tensor, own_mask: Tensor | None, scaling: float | None) -> Tensor:
    """N units of L tokens below one path of A tokens: query, own_k, own_v (N, heads, L, d), before_k and before_v (kv heads, A, d) -> (N, heads, L, d).

    own_mask: (N, 1, L, L) bool, or None where the units are causal inside; every query must see at least one own token.
    """
    mask = None if own_mask is None else torch.zeros(own_mask.shape, dtype=query.dtype).masked_fill_(~own_mask, -torch.inf).expand(-1, query.size(1), -1, -1)
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    result: Tensor = _Merged.apply(query, before_k, before_v, own_k, own_v, mask, scale)  # type: ignore[no-untyped-call]
    return result


def _folded(tensor: Tensor, kv: int) -> Tensor:
    """(N, heads, L, d) -> (1, kv heads, heads / kv * N * L, d): all queries of a key head are one long block, which needs no mask before the shared prefix."""
    members, heads, longest, width = tensor.shape
    return tensor.reshape(members, kv, heads // kv, longest, width).permute(1, 2, 0, 3, 4).reshape(1, kv, -1, width)


def _unfolded(tensor: Tensor, shape: torch.Size) -> Tensor:
    members, heads, longest, _ = shape
    kv = tensor.size(1)
    return tensor.view(kv, heads // kv, members, longest, -1).permute(2, 0, 1, 3, 4).reshape(members, heads, longest, -1)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, before_k: Tensor, before_v: Tensor, own_k: Tensor, own_v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        kv, query = before_k.size(0), query.contiguous()
        before, before_lse = _FORWARD(_folded(query, kv), before_k[None], before_v[None], 0.0, False, scale=scale)
        own, own_lse = _FORWARD(query, own_k, own_v, 0.0, mask is None, attn_mask=mask, scale=scale)
        before, before_lse = _unfolded(before, query.shape), _unfolded(before_lse[..., None], query.shape)[..., 0]
        lse = torch.logaddexp(before_lse, own_lse)
        weight = (own_lse - lse).exp()[..., None]
        out = torch.lerp(before.to(weight.dtype), own.to(weight.dtype), weight).to(query.dtype)
        ctx.save_for_backward(query, before_k, before_v, own_k, own_v, mask, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, before_k, before_v, own_k, own_v, mask, out, lse = ctx.saved_tensors
        kv, gradient = before_k.size(0), upstream[0].contiguous()
        above, asked, given, sums = (_folded(tensor, kv) for tensor in (gradient, query, out, lse[..., None]))
        dq, dk, dv = _BACKWARD(above, asked, before_k[None], before_v[None], given, sums[..., 0], 0.0, False, scale=ctx.scale)
        own_dq, own_dk, own_dv = _BACKWARD(gradient, query, own_k, own_v, out, lse, 0.0, mask is None, attn_mask=mask, scale=ctx.scale)
        return _unfolded(dq, query.shape) + own_dq, dk[0], dv[0], own_dk, own_dv, None, None
