"""Simple preference optimisation: the better answer's mean log-probability must beat the worse one's by a margin; no reference model.

L = - ln sigma(beta * (mean ln p(chosen) - mean ln p(rejected)) - gamma), means over the answer's tokens, so that length gains nothing

Source: Meng et al. 2024, arXiv 2405.14734.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from pathlib import Path

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
LEARNING_RATE = 1e-6


def encode(row: PreferenceRow, chat: Chat) -> Example:
    """Two sequences that share their prompt; one pair is one part of the step. Raises planish.model.chat.Refused."""
    return preference.pair(row, chat)


def refusals(base: Path, *, beta: float = 2.0, gamma: float = 1.0) -> list[Problem]:
    """Options without a meaning, whatever the model: known before anything runs."""
    found = []
    if not 0 < beta < math.inf:
        found.append(Problem("train.objective.simpo.beta", f"is {beta}", "give a number above 0, such as 2"))
    if not 0 <= gamma < math.inf:
        why = f"is {gamma}: the worse answer would have to win" if gamma < 0 else f"is {gamma}"
        found.append(Problem("train.objective.simpo.gamma", why, "give 0 or more, such as 1"))
    return found


def loss(policy: Scored, *, beta: float = 2.0, gamma: float = 1.0) -> Loss:
    """The sum over pairs. Figures per pair: margin = beta times the difference of means less gamma, accuracy (of the difference), both mean log-probabilities, lengths.
    Over pairs, of either side: the correlation of its mean log-probability with its length.

    Raises InputError for a beta that is not above 0 or a negative gamma.
    """
    if wrong := refusals(Path(), beta=beta, gamma=gamma):
        raise InputError(*wrong)
    lengths = policy.lengths()
    means = policy.sums() / lengths
    chosen, rejected = preference.sides(means)
    margin = beta * (chosen - rejected) - gamma
    figures = {
        "margin": margin,
        "accuracy": chosen > rejected,
        "chosen_log_prob": chosen,
        "rejected_log_prob": rejected,
        "chosen_tokens": lengths[0::2],
        "rejected_tokens": lengths[1::2],
    }
    return Loss(-logsigmoid(margin).sum(), preference.summed(figures), relations=preference.with_length(means, lengths))


def diagnose(history: Seq[dict[str, float]], checks: Seq[dict[str, float]] = ()) -> list[State]:
    """What a finished run's figures say: whether length was learnt for merit. `history` has the figures of each step, `checks` those of each validation with its `step`."""
    return learnt_length(history, checks, measured_from="start")
