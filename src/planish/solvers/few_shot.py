"""Few-shot prompt: k worked examples from the training rows stand before the question, the same ones for every question of a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from planish.data.task import Task
from planish.model.asker import Asker
from planish.rows import LabelRow, Message, Sample

SEEDS = 3
"""The stage asks with this many draws of examples: which ones are drawn moves the score more than most prompts do (MISSION B2)."""


def solve(
    samples: Sequence[Sample],
    texts: Sequence[str],
    train: Sequence[LabelRow],
    task: Task,
    asker: Asker | None,
    *,
    k: int = 6,
    pick: Literal["balanced", "random"] = "balanced",
    seed: int = 0,
) -> list[str | None]:
    """One label per sample. Fixed examples make one prefix that is computed once; when they leave no room, fewer are shown to every question."""
    assert asker is not None
    shots = _draw(train, task, k, pick, seed)
    longest = max(samples, key=lambda sample: sum(len(message.content) for message in sample.messages))
    while shots and not asker.fits([*_turns(shots, task), *longest.messages]):
        shots = shots[:-1]
    head = _turns(shots, task)
    return list(asker.choose([[*head, *sample.messages] for sample in samples], task.labels))


def _draw(train: Sequence[LabelRow], task: Task, k: int, pick: str, seed: int) -> list[LabelRow]:
    """k training rows; balanced takes the labels in turn. The order is shuffled, as the last example weighs most."""
    draw = random.Random(seed)
    rows = draw.sample(list(train), len(train))
    if pick == "balanced":
        by_label = {label: [row for row in rows if row.label == label] for label in task.labels}
        rows = [by_label[label][turn] for turn in range(k) for label in task.labels if turn < len(by_label[label])]
    shots = rows[:k]
    draw.shuffle(shots)
    return shots


def _turns(shots: Sequence[LabelRow], task: Task) -> list[Message]:
    return [turn for row in shots for turn in (*task.prompt(row.text), Message(role="assistant", content=row.label))]
