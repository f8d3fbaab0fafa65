"""What can be asked of a scored row's logits: the log-probability of a target, the entropy, the divergence from a sparse teacher. Each with its gradient by the logits.

A term is called with (r, V) logits of some rows and gives a value per row and, if asked, d value / d logits. It may destroy the logits when `spare` says that nobody reads
them afterwards: at a vocabulary of 152,000 a copy costs as much as the arithmetic.
"""

from __future__ import annotations

import math
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

    What they leave of the probability is one more class, the tail; there is none when K is the vocabulary. Where rows hold fewer than K tokens, `valid` (R, K) says which
    places count, and the others repeat the row's first token. `tail` (R,): ln of what is left, where it is known better than by subtraction. `known` (R,): rows that have
    a teacher; the others' value is 0.
    """

    ids: Tensor
    log_probs: Tensor
    temperature: float = 1.0
    valid: Tensor | None = None
    tail: Tensor | None = None
    known: Tensor | None = None

    def coverage(self) -> Tensor:
        """(R,) how much of the teacher's probability the K tokens hold."""
        held = self.log_probs.exp()
        return (held if self.valid is None else held * self.valid).sum(1)


@dataclass(frozen=True)
class Divergence:
    """Divergence between a sparse teacher q and the student p at the teacher's temperature T, over its K tokens and the tail (Hinton et al., arXiv 1503.02531; MISSION S2).

    forward: sum_i q_i ln(q_i / p_i); reverse: sum_i p_i ln(p_i / q_i); jsd: b KL(q || m) + (1 - b) KL(p || m) with m = b q + (1 - b) p, b the `mix` (Agarwal et al.,
    arXiv 2306.13649). At most the divergence over the whole vocabulary, and its gradient is zero where student = teacher. The factor T^2 is the objective's.
    """

    teacher: Teacher
    direction: Literal["forward", "reverse", "jsd"] = "forward"
    mix: float = 0.5

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        teacher, ids = self.teacher, self.teacher.ids[rows]
        log_p = (logits / teacher.temperature).log_softmax(1)
        mine, log_q = log_p.gather(1, ids), teacher.log_probs[rows].to(log_p.dtype)
        counts = torch.ones_like(mine) if teacher.valid is None else teacher.valid[rows].to(mine.dtype)
        if ids.size(1) < logits.size(1) or teacher.valid is not None:
            rest = log_p.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
            mine = torch.cat([mine, rest.masked_fill(rest == -torch.inf, math.log(TAIL_FLOOR))], 1)
            left = (1 - (log_q.exp() * counts).sum(1)).clamp_min(TAIL_FLOOR).log() if teacher.tail is None else teacher.tail[rows].to(log_q.dtype)
            log_q = torch.cat([log_q, left[:, None]], 1)
            counts = torch.cat([counts, torch.ones_like(left)[:, None]], 1)
        p, q = mine.exp() * counts, log_q.exp() * counts
        value, factor = of_classes(self.direction, self.mix, mine, log_q, p, q)
        if teacher.known is not None:
            value = value * teacher.known[rows]
        if not gradient:
            return value, None
        if teacher.known is not None:
            factor = factor * teacher.known[rows, None]
        # d value / d z_v is p_v times a factor of v's class
        slope = log_p.exp_()
        own = slope.gather(1, ids) * factor[:, : ids.size(1)]
        if mine.size(1) > ids.size(1):
            slope *= factor[:, -1:]
        return value, slope.scatter_(1, ids, own).div_(teacher.temperature)


def of_classes(direction: str, mix: float, log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """(r,) the divergence over C classes, and (r, C) the factor of each class: d value / d p of the class, less its mean under p."""
    if direction == "forward":
        return (q * (log_q - log_p)).sum(1), q.sum(1, keepdim=True) - (log_q - log_p).exp()
    if direction == "reverse":
        value = (p * (log_p - log_q)).sum(1)
        return value, log_p - log_q - value[:, None]
    mixed = torch.logaddexp(log_p + math.log1p(-mix), log_q + math.log(mix))
    of_student = (p * (log_p - mixed)).sum(1)
    value = mix * (q * (log_q - mixed)).sum(1) + (1 - mix) * of_student
    return value, (1 - mix) * (log_p - mixed - of_student[:, None])


@dataclass(frozen=True)
class SampledDivergence:
    """sum_i w_i (ln q_i - ln p_i): the forward KL over the whole vocabulary, on average over what was drawn from the teacher's tail (Anshumann et al., arXiv 2503.16870).

    `teacher.ids` are the K kept tokens and then the drawn ones, which may repeat; weight (R, K): q of a kept token, and of a drawn one what makes the sum unbiased, 0 where
    a place holds nothing. Its gradient is zero at student = teacher on average only.
    """

    teacher: Teacher
    weight: Tensor

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        teacher, ids = self.teacher, self.teacher.ids[rows]
        log_p = (logits / teacher.temperature).log_softmax(1)
        weight = self.weight[rows].to(log_p.dtype)
        if teacher.known is not None:
            weight = weight * teacher.known[rows, None]
        value = (weight * (teacher.log_probs[rows].to(log_p.dtype) - log_p.gather(1, ids))).sum(1)
        if not gradient:
            return value, None
        return value, log_p.exp_().mul_(weight.sum(1, keepdim=True)).scatter_add_(1, ids, -weight).div_(teacher.temperature)


@dataclass(frozen=True)
class Watched:
    """A term that is looked at and not learnt from: it has no gradient, and costs none."""

    term: Term

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        return self.term(logits, rows, gradient=False, spare=False)
