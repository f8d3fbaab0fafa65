"""A head of one value on a model's hidden states, trained by squared error towards labels that are numbers: ratings, ages, prices.

L = 1/N sum_i (w h_i + b - y_i)^2 / 2, h_i the last token's final hidden state of the prompt, or the mean over its tokens        (MISSION A11)

The head comes with the adapter: `head: {kind: regression}`. Its answer to a row is the label that is nearest to its value.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.model.chat import Chat, Refused
from planish.model.class_head import number, pool, read_whole
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.rows import ChatRow, RejectCode

ROW = ChatRow
HEAD = "regression"
"""The kind of head that it trains."""


def for_task(options: dict[str, object], task: Task) -> dict[str, object]:
    """The options as they are. Raises InputError for a task without labels, and naming every label that is no number."""
    if task.shape != "classification":
        raise InputError(Problem("train.objective.regress", f"needs rows with text and label, and the task is {task.shape}", "train by sft"))
    fix = "use classify, whose labels are names"
    problems = [Problem("train.objective.regress", f'the label "{label}" is no number', fix) for label in task.labels if number(label) is None]
    if problems:
        raise InputError(*problems)
    return options


def encode(row: ChatRow, chat: Chat) -> Example:
    """The prompt of a row with its number. Its share of the step is 1. Raises planish.model.chat.Refused for a label that is none."""
    value = number(row.messages[-1].content)
    if value is None:
        raise Refused(RejectCode.WRONG_TYPE, f'"{row.messages[-1].content}" is no number')
    return Example((read_whole(chat.prompt(row.messages[:-1], row.tools), (value,)),), 1.0)


def chance(examples: Seq[Example], vocabulary: int) -> float:
    """The loss of one who always says the mean: half the variance."""
    values = [example.sequences[0].given[0] for example in examples]
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values) / 2


def loss(policy: Scored) -> Loss:
    """The sum over rows. Figures per row: absolute error. Raises InputError where the model has no head of one value."""
    head: Any = policy.rows.class_head
    if head is None or head.linear.out_features != 1:
        raise InputError(Problem("train.adapter", "has no head of one value", "use adapter: {head: {kind: regression}}"))
    values = head(pool(policy.rows.hidden, policy.sequence, policy.sequences, head.pooling))[:, 0]
    off = values - policy.given[:, 0]
    return Loss(off.square().sum() / 2, {"absolute_error": float(off.detach().abs().sum())})
