"""A seeded draw among the training answers: what guessing scores, evenly over the labels or as often as each occurs.

Beating it proves little (MISSION B1). Oracle: scikit-learn's DummyClassifier, `uniform` and `stratified`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.model.asker import Asker
from planish.rows import Row, Sample


def solve(
    samples: Sequence[Sample],
    texts: Sequence[str],
    train: Sequence[Row],
    task: Task,
    asker: Asker | None,
    *,
    draw: Literal["uniform", "stratified"] = "uniform",
    seed: int = 0,
) -> list[str | None]:
    """One answer per sample: with `uniform` any of the task's labels, or of the different training answers where it has none; with `stratified` that of a training row.

    Raises InputError where `train` is empty."""
    if not train:
        raise InputError(Problem("random", "there are no training rows to draw answers from", "without them the trivial baselines are copy_input and empty"))
    given = [task.asked(row).target for row in train]
    answers = given if draw == "stratified" else list(task.labels or dict.fromkeys(given))
    dice = random.Random(seed)
    return [dice.choice(answers) for _ in samples]
