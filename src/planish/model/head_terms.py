"""What can be asked of a scored row's logits: the log-probability of a target, the entropy, the divergence from a sparse teacher. Each with its gradient by the logits.

A term is called with (r, V) logits of some rows and gives a value per row and, if asked, d value / d logits. It may destroy the logits when `spare` says that nobody reads
them afterwards: at a vocabulary of 152,000 a copy costs as much as the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

TAIL_FLOOR = 1e-12
"""Least probability of the teacher's tail: its logarithm must exist. What a top-k capture leaves is larger in all but certain rows."""


class Term(Protocol):
    """A value per row of logits."""

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        """logits (r, V) of the rows `rows` -> values (r,) and d value / d logits (r, V)."""
        ...


@dataclass(frozen=True)
class LogProb:
    """ln p(target) = z_target - lse(z). target: (R,) token ids. Gradient: onehot - p."""

    target: Tensor

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        at = self.target[rows, None]
        chosen = logits.gather(1, at)[:, 0]
        if not gradient:
            return chosen - logits.logsumexp(1), None
        top = logits.amax(1, keepdim=True)
        p = logits.sub_(top) if spare else logits - top
        total = p.exp_().sum(1, keepdim=True)
        value = chosen - top[:, 0] - total[:, 0].log()
        return value, p.div_(-total).scatter_add_(1, at, torch.ones_like(at, dtype=p.dtype))


@dataclass(frozen=True)
class Entropy:
    """H = - sum_v p_v ln p_v in nats. Gradient: -p_v (ln p_v + H)."""

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        value = -(p * log_p).sum(1)
        return value, log_p.add_(value[:, None]).mul_(p).neg_() if gradient else None


@dataclass(frozen=True)
class Teacher:
    """K most probable tokens of a teacher at each of R rows. ids: (R, K), no id twice in a row; log_probs: (R, K) at this temperature, over the teacher's whole vocabulary.

    What they leave of the probability is one more class, the tail; there is none when K is the vocabulary.
    """

    ids: Tensor
    log_probs: Tensor
    temperature: float = 1.0

    def coverage(self) -> Tensor:
        """(R,) how much of the teacher's probability the K tokens hold."""
        return self.log_probs.exp().sum(1)


@dataclass(frozen=True)
class Divergence:
    """KL between a sparse teacher q and the student p at the teacher's temperature T, over its K tokens and the tail (Hinton et al., arXiv 1503.02531; MISSION S2).

    forward: sum_i q_i ln(q_i / p_i); reverse: sum_i p_i ln(p_i / q_i). At most the KL over the whole vocabulary, and its gradient is zero where student = teacher.
    The factor T^2 is the objective's.
    """

    teacher: Teacher
    direction: Literal["forward", "reverse"] = "forward"

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        temperature, ids = self.teacher.temperature, self.teacher.ids[rows]
        log_p = (logits / temperature).log_softmax(1)
        mine, log_q = log_p.gather(1, ids), self.teacher.log_probs[rows].to(log_p.dtype)
        if ids.size(1) < logits.size(1):
            rest = log_p.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
            mine = torch.cat([mine, rest], 1)
            log_q = torch.cat([log_q, (1 - log_q.exp().sum(1, keepdim=True)).clamp_min(TAIL_FLOOR).log()], 1)
        p, q = mine.exp(), log_q.exp()
        value = (q * (log_q - mine)).sum(1) if self.direction == "forward" else (p * (mine - log_q)).sum(1)
        if not gradient:
            return value, None
        # d value / d z_v is p_v times a factor of v's class: forward sum(q) - q_class / p_class; reverse ln(p_class / q_class) - KL
        factor = q.sum(1, keepdim=True) - (log_q - mine).exp() if self.direction == "forward" else mine - log_q - value[:, None]
        slope = log_p.exp_()
        own = slope.gather(1, ids) * factor[:, : ids.size(1)]
        if mine.size(1) > ids.size(1):
            slope *= factor[:, -1:]
        return value, slope.scatter_(1, ids, own).div_(temperature)
