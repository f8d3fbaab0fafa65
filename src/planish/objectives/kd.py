"""Distillation from a captured teacher: the student learns the right token and, beside it, how likely the teacher finds every other one.

L = ce_weight * CE + kd_weight * T^2 * KL(teacher^T || student^T), both means over trained tokens        (MISSION S2)

The teacher ran once, `planish capture` kept its likeliest tokens, and what they leave is one more class. A token without a teacher leaves the second term only.
Sources: Hinton et al. 2015, arXiv 1503.02531; reverse and jsd: Agarwal et al. 2024, arXiv 2306.13649; sampled tail: Anshumann et al. 2025, arXiv 2503.16870.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Literal

from planish.errors import Problem
from planish.model import captured
from planish.model.capture_batch import NONE as NONE
from planish.model.captured import Weighed
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.rows import ChatRow

ROW = ChatRow
FILES = ("capture",)
"""Keys that name files: relative to the recipe, and part of what a run depends on by content."""
REFUSED = {
    "alpha": "alpha means opposite things in the texts on distillation: write ce_weight for what multiplies the cross-entropy, kd_weight for the teacher's term",
    "lambda": "lambda means opposite things in the texts on distillation: write ce_weight for what multiplies the cross-entropy, kd_weight for the teacher's term",
    "hidden_weight": "a capture holds no hidden states: use on_policy_kd with teacher: MODEL, lambda_on: 0 and this hidden_weight, which asks the teacher at each step",
}
"""Keys of other tools and of other objectives that are not taken over in silence, and what to write instead."""
WHERE = "train.objective.kd"


def encode(row: ChatRow, chat: Chat, *, capture: str) -> Example:
    """The conversation, or the prompt with what the teacher wrote, and where the capture has it. A row that the teacher only read and that is not there is trained without.

    Raises InputError for a capture of another tokenizer or template; planish.model.chat.Refused where the teacher wrote no answer, or one that was cut.
    """
    return captured.encode(row, chat, capture, WHERE)


def require(examples: Seq[Example]) -> None:
    """Raises InputError where too many rows are not in the capture."""
    captured.require_found(examples, WHERE)


def content(*, capture: str) -> str:
    """The hash of the captured rows."""
    return captured.content(capture, WHERE)


def refusals(
    base: Path,
    *,
    capture: str,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    temperature: float = 2.0,
    direction: Literal["forward", "reverse", "jsd"] = "forward",
    mix: float = 0.5,
    tail: Literal["bucket", "sampled"] = "bucket",
) -> list[Problem]:
    """Why the model of the folder `base` cannot learn from the capture: it is none, of another tokenizer or template, or cannot give what the options ask."""
    return captured.refusals(base, capture, Weighed(WHERE, ce_weight, kd_weight, temperature, direction, mix, tail))


def require_data(gold: str, rows: Seq[str], *, capture: str) -> None:
    """Raises InputError where the capture was made beside another gold set than the `gold` hash's: its rows may be gold here (MISSION R-4), or where the teacher wrote no answer to
    too many of the training `rows`."""
    captured.require_gold(gold, capture, WHERE)
    captured.require_answers(rows, capture, WHERE)


def loss(
    policy: Scored,
    *,
    capture: str,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    temperature: float = 2.0,
    direction: Literal["forward", "reverse", "jsd"] = "forward",
    mix: float = 0.5,
    tail: Literal["bucket", "sampled"] = "bucket",
) -> Loss:
    """The sum over trained tokens; the loop divides by their number over the whole step. `mix` is the teacher's share of the mixture in jsd.

    Figures per trained token: ce; kd, with its T^2; the student's entropy in nats; coverage, the share of tokens with a teacher. Raises InputError for options that have no
    meaning, or that the capture cannot give.
    """
    return captured.loss(policy, capture, Weighed(WHERE, ce_weight, kd_weight, temperature, direction, mix, tail))
