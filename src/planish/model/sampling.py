"""From a row of logits to the next token: repetition penalty, temperature, top-k, top-p, min-p, in that order (MISSION E2). Every function is pure and takes (..., V).

The order and the edges are those of transformers' logits processors, which are the oracle: min-p stands behind top-p as it does there. A greedy answer sees the penalty too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from planish.model.engine import Decoding


class Mask(Protocol):
    """Which tokens an answer may go on with; one object per answer (planish.model.constraint_mask)."""

    def allowed(self) -> Tensor:
        """(V,) bool; at least one is true."""

    def take(self, token: int) -> None:
        """The answer went on with `token`, one of the allowed."""


def penalised(logits: Tensor, seen: Sequence[int] | Tensor, penalty: float) -> Tensor:
    """Positive logits of `seen` tokens divided by `penalty`, negative ones multiplied by it (arXiv 1909.05858). Ex: 1.2: 2.4 -> 2.0, -1.0 -> -1.2."""
    index = torch.as_tensor(seen, dtype=torch.long, device=logits.device)
    found = logits[..., index]
    return logits.index_copy(-1, index, torch.where(found < 0, found * penalty, found / penalty))


def top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k largest become -inf; ties with the k-th stay. Ex: (.5, .3, .1, .07, .03), k=2 -> (.625, .375)."""
    least = logits.topk(min(k, logits.size(-1))).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """All but the fewest likeliest tokens that together hold at least `p` become -inf (arXiv 1904.09751). Ex: p=.85 -> (.556, .333, .111)."""
    ordered, index = logits.sort(dim=-1)
    remove = ordered.softmax(-1).cumsum(-1) <= 1 - p
    remove[..., -1] = False
    return logits.masked_fill(remove.scatter(-1, index, remove), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Tokens less likely than `p` times the likeliest become -inf (arXiv 2407.01082)."""
    chances = logits.softmax(-1)
    return logits.masked_fill(chances < p * chances.amax(-1, keepdim=True), -torch.inf)


def warped(logits: Tensor, decoding: Decoding) -> Tensor:
    """Temperature, then top-k, top-p and min-p. Only for a temperature above 0."""
    logits = logits / decoding.temperature
    if decoding.top_k:
        logits = top_k(logits, decoding.top_k)
    if decoding.top_p < 1:
        logits = top_p(logits, decoding.top_p)
    return min_p(logits, decoding.min_p) if decoding.min_p else logits


class Sampler:
    """The tokens of one answer. Its draws are its own: an answer does not depend on its neighbours' seeds or order. `prompt` counts as seen, as in transformers."""

    def __init__(self, decoding: Decoding, prompt: Sequence[int], mask: Mask | None = None) -> None:
        self.decoding, self.mask = decoding, mask
        self._random = torch.Generator().manual_seed(decoding.seed)
        self._seen = set(prompt)

    def pick(self, logits: Tensor) -> int:
        """The next token, from (V,) raw fp32 logits on the CPU."""
        if self.decoding.repetition_penalty != 1:
            logits = penalised(logits, sorted(self._seen), self.decoding.repetition_penalty)
        if self.mask is not None:
            logits = logits.masked_fill(~self.mask.allowed(), -torch.inf)
        token = int(logits.argmax() if self.decoding.greedy else torch.multinomial(warped(logits, self.decoding).softmax(-1), 1, generator=self._random))
        self._seen.add(token)
        if self.mask is not None:
            self.mask.take(token)
        return token
