"""A reward model: one number for an answer, higher for the better of two, from a scalar head on the last token.

L = - ln sigma(r(chosen) - r(rejected) - margin), so that sigma(r_c - r_r) is the probability that the chosen answer is preferred (Bradley-Terry)        (MISSION P4)

Source: Bradley & Terry 1952, Biometrika 39:324; Ouyang et al. 2022, arXiv 2203.02155. The head comes with the adapter: `head: {kind: reward}`.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch.nn.functional import logsigmoid

from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.model import preference
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.rows import PreferenceRow

ROW = PreferenceRow
HEAD = "reward"
"""The kind of head that it trains."""


def encode(row: PreferenceRow, chat: Chat) -> Example:
    """Two sequences that share their prompt, each read at the token that ends its answer. Raises planish.model.chat.Refused."""
    chosen, rejected = preference.pair(row, chat).sequences
    return Example((_read_at_the_end(chosen), _read_at_the_end(rejected)), 1.0)


def refusals(base: Path, *, margin: float = 0.0) -> list[Problem]:
    """Options without a meaning, whatever the model: known before anything runs."""
    if 0 <= margin < math.inf:
        return []
    why = f"is {margin}: the worse answer would have to win" if margin < 0 else f"is {margin}"
    return [Problem("train.objective.reward.margin", why, "give 0 or more")]


def loss(policy: Scored, *, margin: float = 0.0) -> Loss:
    """The sum over pairs. Figures per pair: difference of rewards, accuracy, probability that the chosen answer is preferred, both rewards.

    Raises InputError for a negative margin, or where the model has no head of one output that reads the last token.
    """
    head = policy.rows.class_head
    problems = refusals(Path(), margin=margin)
    if head is None or getattr(head.linear, "out_features", 0) != 1:
        problems.append(Problem("train.adapter", "has no head of one output", "use adapter: {head: {kind: reward}}"))
    elif head.pooling != "last":
        problems.append(Problem("train.adapter.head.pooling", "is mean; a reward is read at the last token", "set it to last"))
    if problems:
        raise InputError(*problems)
    rewards = policy.rows.class_logits()[:, 0]
    chosen, rejected = preference.sides(rewards)
    difference = chosen - rejected
    figures = {
        "difference": difference,
        "accuracy": difference > 0,
        "probability": difference.sigmoid(),
        "chosen_reward": chosen,
        "rejected_reward": rejected,
    }
    return Loss(-logsigmoid(difference - margin).sum(), preference.summed(figures))


def _read_at_the_end(sequence: Sequence) -> Sequence:
    """All tokens are read, and the last one's hidden state is asked for; the token behind it is only there because the tree has a target for what it scores."""
    return Sequence((*sequence.ids, 0), (*[0.0] * len(sequence.ids), 1.0))
