"""Odds-ratio preference optimisation: fine-tuning on the better answer with a penalty on the worse one's odds; no reference model.

L = NLL(chosen) - lambda_or * ln sigma(ln odds(chosen) - ln odds(rejected)), odds = p / (1 - p), p = exp(mean log-probability of the answer's tokens)        (MISSION P3)

Source: Hong et al. 2024, arXiv 2403.07691. The NLL is the mean over the answer's tokens, its prompt left out (MISSION K2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from planish.errors import InputError, Problem
from planish.model import preference
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.model.preference_lengths import learnt_length
from planish.model.preference_state import State
from planish.rows import PreferenceRow

ROW = PreferenceRow

CERTAIN = -1e-6
"""Mean log-probabilities above this are read as this: at 0 the odds are infinite."""


def encode(row: PreferenceRow, chat: Chat) -> Example:
    """Two sequences that share their prompt; one pair is one part of the step. Raises planish.model.chat.Refused."""
    return preference.pair(row, chat)


def refusals(base: Path, *, lambda_or: float = 0.1) -> list[Problem]:
    """Options without a meaning, whatever the model: known before anything runs."""
    return [] if 0 <= lambda_or < math.inf else [Problem("train.objective.orpo.lambda_or", f"is {lambda_or}", "give 0 or more, such as 0.1")]


def loss(policy: Scored, *, lambda_or: float = 0.1) -> Loss:
    """The sum over pairs. Figures per pair: nll, penalty, log_odds_ratio, accuracy, mean log-probabilities, lengths, and `clamped`, answers whose mean log-probability is 0.
    Over pairs, of either side: the correlation of its mean log-probability with its length.

    Raises InputError for a negative lambda_or.
    """
    if wrong := refusals(Path(), lambda_or=lambda_or):
        raise InputError(*wrong)
    lengths = policy.lengths()
    mean = policy.sums() / lengths
    chosen, rejected = preference.sides(mean)
    log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
    penalty = -logsigmoid(log_odds_ratio)
    figures = {
        "nll": -chosen,
        "penalty": penalty,
        "log_odds_ratio": log_odds_ratio,
        "accuracy": log_odds_ratio > 0,
        "chosen_log_prob": chosen,
        "rejected_log_prob": rejected,
        "chosen_tokens": lengths[0::2],
        "rejected_tokens": lengths[1::2],
        "clamped": mean > CERTAIN,
    }
    return Loss((lambda_or * penalty - chosen).sum(), preference.summed(figures), relations=preference.with_length(mean, lengths))


def diagnose(history: Seq[dict[str, float]], checks: Seq[dict[str, float]] = ()) -> list[State]:
    """What a finished run's figures say: whether length was learnt for merit. `history` has the figures of each step, `checks` those of each validation with its `step`."""
    return learnt_length(history, checks, measured_from="start")


def _log_odds(mean: Tensor) -> Tensor:
    """ln p - ln(1 - p) from ln p, each by the form that does not cancel."""
    mean = mean.clamp(max=CERTAIN)
    small = mean < -0.6931471805599453
    rest = torch.where(small, torch.log1p(-torch.exp(mean)), torch.log(-torch.expm1(mean)))
    return mean - rest
