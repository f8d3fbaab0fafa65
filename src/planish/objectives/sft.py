"""Supervised fine-tuning: next-token cross-entropy on the answers, averaged over the trained tokens of the whole step.

L = - sum_t w_t log p(x_t | x_<t) / sum_t w_t        (MISSION K2, T6)
"""

from __future__ import annotations

from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.rows import ChatRow

ROW = ChatRow


def encode(row: ChatRow, chat: Chat) -> Example:
    """One conversation is one sequence; its share of the step is the weight of its trained tokens. Raises planish.model.chat.Refused."""
    sequence = chat.trained(row.messages, row.tools)
    return Example((sequence,), sum(sequence.weights))


def loss(policy: Scored) -> Loss:
    """The sum over trained tokens; the loop divides by their number over the whole step."""
    return Loss(-(policy.log_prob * policy.weight).sum(), {})
