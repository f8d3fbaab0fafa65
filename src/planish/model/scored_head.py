"""The LM head over scored rows only, in chunks: log-probabilities, entropy and divergences from one pass, with the gradient formed in the forward pass when the head is frozen.

The gradient of a row's value by its hidden state is one vector, kept instead of a (rows, vocabulary) tensor. So a frozen head costs two matrix products for one
differentiable value; a recompute in the backward pass would cost three (DESIGN, The training core 3). A trained head is recomputed chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from planish.model.head_terms import LogProb, Term
from planish.model.lm_head import Head, wide

CHUNK_BYTES = 2**27
"""Logits that exist at one time, per tensor of them: bounds the peak whatever the vocabulary."""


def log_probs(hidden: Tensor, head: Head | Tensor, target: Tensor, chunk: int | None = None) -> Tensor:
    """Log-probability of each target. hidden (R, H), head or its weight (V, H), target (R,) -> (R,) in fp32 or wider. Differentiable in hidden and head."""
    return measure(hidden, head, [LogProb(target)], chunk=chunk)[0]


def measure(hidden: Tensor, head: Head | Tensor, terms: Seq[Term], *, chunk: int | None = None) -> tuple[Tensor, ...]:
    """The value of each term at each row: hidden (R, H) -> len(terms) tensors (R,), each differentiable. A frozen head costs one matrix product and one more per term."""
    return _run(hidden, _head(head), tuple(terms), None, chunk)


def blend(hidden: Tensor, head: Head | Tensor, terms: Seq[Term], weights: Seq[float], *, chunk: int | None = None) -> tuple[Tensor, ...]:
    """First the weighted sum of the terms (R,), which is differentiable; then each term (R,) to look at only. However many terms, a frozen head costs two matrix products."""
    total, *parts = _run(hidden, _head(head), tuple(terms), tuple(weights), chunk)
    return total, *(part.detach() for part in parts)


def predictions(hidden: Tensor, head: Head | Tensor, chunk: int | None = None) -> Tensor:
    """The most probable next token of each row: (R, H) -> (R,)."""
    head = _head(head)
    with torch.no_grad():
        return torch.cat([head.logits(rows).argmax(-1) for rows in hidden.split(_rows(head, chunk))]) if len(hidden) else hidden.new_empty(0, dtype=torch.long)


def _head(head: Head | Tensor) -> Head:
    return head if isinstance(head, Head) else Head(head)


def _rows(head: Head, chunk: int | None) -> int:
    return chunk or max(32, CHUNK_BYTES // (4 * head.weight.size(0)) // 32 * 32)


def _run(hidden: Tensor, head: Head, terms: tuple[Term, ...], weights: tuple[float, ...] | None, chunk: int | None) -> tuple[Tensor, ...]:
    slices = [slice(start, min(start + _rows(head, chunk), len(hidden))) for start in range(0, len(hidden), _rows(head, chunk))]
    if not slices:
        return tuple(hidden.sum(1).to(wide(hidden)) for _ in range(len(terms) + (weights is not None)))
    if head.frozen:
        result: tuple[Tensor, ...] = _FrozenHead.apply(hidden, head, terms, weights, slices)  # type: ignore[no-untyped-call]
        return result

    def piece(rows_hidden: Tensor, rows: slice) -> tuple[Tensor, ...]:
        values: tuple[Tensor, ...] = _OnLogits.apply(head.logits(rows_hidden), terms, weights, rows)  # type: ignore[no-untyped-call]
        return values

    pieces = [torch.utils.checkpoint.checkpoint(piece, hidden[rows], rows, use_reentrant=False) for rows in slices]
    return tuple(torch.cat(column) for column in zip(*pieces, strict=True))


def _evaluate(logits: Tensor, terms: tuple[Term, ...], weights: tuple[float, ...] | None, rows: slice, gradient: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Values, and slopes by the logits: one per term, or of the weighted sum alone, which then is the first value."""
    values, slopes = [], list[Tensor]()
    for index, term in enumerate(terms):
        value, slope = term(logits, rows, gradient=gradient, spare=index == len(terms) - 1)
        values.append(value)
        if slope is not None and weights is None:
            slopes.append(slope)
        elif slope is not None and weights is not None:
            slope = slope.mul_(weights[index])
            slopes = [slope if not slopes else slopes[0].add_(slope)]
    if weights is not None:
        values.insert(0, torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum(0))
    return values, slopes


class _OnLogits(torch.autograd.Function):
    """The terms as a differentiable function of a chunk's logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, terms: tuple[Term, ...], weights: tuple[float, ...] | None, rows: slice) -> tuple[Tensor, ...]:
        values, slopes = _evaluate(logits.clone(), terms, weights, rows, ctx.needs_input_grad[0])
        ctx.save_for_backward(*slopes)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.saved_tensors
        total = slopes[0] * upstream[0][:, None]
        for slope, factor in zip(slopes[1:], upstream[1:], strict=False):
            total = total.addcmul_(slope, factor[:, None])
        return total, None, None, None


class _FrozenHead(torch.autograd.Function):
    """The terms as a differentiable function of the hidden states: one (R, H) gradient per differentiable value is all that is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, terms: tuple[Term, ...], weights: tuple[float, ...] | None, slices: list[slice]) -> tuple[Tensor, ...]:
        gradient = ctx.needs_input_grad[0]
        weight = head.weight.to(hidden.dtype)
        kept = [torch.empty_like(hidden) for _ in range(0 if not gradient else 1 if weights is not None else len(terms))]
        columns: list[list[Tensor]] = []
        for rows in slices:
            raw = hidden[rows] @ weight.t()
            logits = head.shape(raw.to(wide(hidden)) if head.bias is None else raw + head.bias.to(wide(hidden)))
            bend = 1 - (logits / head.softcap).square() if gradient and head.softcap is not None else None  # d cap(z) / d z, before a term destroys the logits
            values, slopes = _evaluate(logits, terms, weights, rows, gradient)
            columns.append(values)
            for slope, out in zip(slopes, kept, strict=True):
                slope = slope if bend is None else slope.mul_(bend)
                slope = slope if head.scale == 1.0 else slope.mul_(head.scale)
                torch.mm(slope.to(weight.dtype), weight, out=out[rows])
        ctx.save_for_backward(*kept)
        return tuple(torch.cat(column) for column in zip(*columns, strict=True))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        total = kept[0] * upstream[0][:, None].to(kept[0].dtype)
        for gradient, factor in zip(kept[1:], upstream[1:], strict=False):
            total = total.addcmul_(gradient, factor[:, None].to(gradient.dtype))
        return total, None, None, None, None
