"""Simple preference optimisation: the better answer's mean log-probability must beat the worse one's by a margin; no reference model.

L = - ln sigma(beta * (mean ln p(chosen) - mean ln p(rejected)) - gamma), means over the answer's tokens, so that length gains nothing

Source: Meng et al. 2024, arXiv 2405.14734.
"""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from planish.errors import InputError, Problem
from planish.model import preference
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.rows import PreferenceRow

ROW = PreferenceRow
LEARNING_RATE = 1e-6


def encode(row: PreferenceRow, chat: Chat) -> Example:
    """Two sequences that share their prompt; one pair is one part of the step. Raises planish.model.chat.Refused."""
    return preference.pair(row, chat)


def loss(policy: Scored, *, beta: float = 2.0, gamma: float = 1.0) -> Loss:
    """The sum over pairs. Figures per pair: margin = beta times the difference of means less gamma, accuracy (of the difference), both mean log-probabilities, lengths.

    Raises InputError for a beta that is not above 0 or a negative gamma.
    """
    problems = []
    if not beta > 0:
        problems.append(Problem("objective.simpo.beta", f"is {beta}", "give a number above 0, such as 2"))
    if gamma < 0:
        problems.append(Problem("objective.simpo.gamma", f"is {gamma}: the worse answer would have to win", "give 0 or more, such as 1"))
    if problems:
        raise InputError(*problems)
    lengths = policy.lengths()
    chosen, rejected = preference.sides(policy.sums() / lengths)
    margin = beta * (chosen - rejected) - gamma
    figures = {
        "margin": margin,
        "accuracy": chosen > rejected,
        "chosen_log_prob": chosen,
        "rejected_log_prob": rejected,
        "chosen_tokens": lengths[0::2],
        "rejected_tokens": lengths[1::2],
    }
    return Loss(-logsigmoid(margin).sum(), preference.summed(figures))
