"""A head of classes on a model's hidden states, trained by cross-entropy over its classes: one pass a row, and nothing is generated.

L = - 1/N sum_i log softmax(W h_i + b)[y_i], h_i the last token's final hidden state of the prompt, or the mean over its tokens        (MISSION A11)

The head comes with the adapter: `head`, whose pooling it reads. The prompt is the one that evaluation sends, so that training and answers see the same tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as Seq
from typing import Any

from torch.nn.functional import cross_entropy

from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.model.chat import Chat, Refused
from planish.model.class_head import labels_of_task, pool, read_whole
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.rows import ChatRow, RejectCode

ROW = ChatRow
HEAD = "classification"
"""The kind of head that it trains."""


def for_task(options: dict[str, object], task: Task) -> dict[str, object]:
    """The options with the task's labels, whose order is that of the classes. Raises InputError for a task without labels, or other labels than its own."""
    return labels_of_task("train.objective.classify", options, task)


def encode(row: ChatRow, chat: Chat, *, labels: list[str] | None = None) -> Example:
    """The prompt of a row with the place of its label. Its share of the step is 1: rows count alike. Raises planish.model.chat.Refused for a label outside `labels`."""
    said = row.messages[-1].content
    if said not in (labels or []):
        raise Refused(RejectCode.LABEL_UNKNOWN, f'"{said}" is not among the labels of the task')
    place = float((labels or []).index(said))
    return Example((read_whole(chat.prompt(row.messages[:-1], row.tools), (place,)),), 1.0)


def require(examples: Seq[Example], *, labels: list[str] | None = None) -> None:
    """Raises InputError for every label without a training row: its class could never be learned."""
    seen = {int(example.sequences[0].given[0]) for example in examples}
    fix = "bring rows with it, raise max_rows, or take it out of the task"
    problems = [Problem("train.objective.classify", f'label "{name}" has no row in train', fix) for place, name in enumerate(labels or []) if place not in seen]
    if problems:
        raise InputError(*problems)


def chance(examples: Seq[Example], vocabulary: int) -> float:
    """The loss of one who knows the labels' shares alone: their entropy in nats, ln(classes) where they are equal."""
    counts = Counter(example.sequences[0].given[0] for example in examples).values()
    return -sum(count / len(examples) * math.log(count / len(examples)) for count in counts)


def loss(policy: Scored) -> Loss:
    """The sum over rows. Figures per row: accuracy. Raises InputError where the model has no head of several classes."""
    head: Any = policy.rows.class_head
    if head is None or head.linear.out_features < 2:
        raise InputError(Problem("train.adapter", "has no head of several classes", "use adapter: {head: {kind: classification}}"))
    logits = head(pool(policy.rows.hidden, policy.sequence, policy.sequences, head.pooling))
    wanted = policy.given[:, 0].long()
    return Loss(cross_entropy(logits, wanted, reduction="sum"), {"accuracy": float((logits.detach().argmax(-1) == wanted).sum())})
