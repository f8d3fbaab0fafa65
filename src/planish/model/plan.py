"""What a run will compute, decided before it starts: steps, batches, spacing of validations and checkpoints (MISSION T1, T3, T5, T6)."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from planish.data.batches import shared_order
from planish.errors import InputError, Problem
from planish.model.schedule import warmup_steps

FEW_STEPS = 50
MANY_EPOCHS = 5
BAND = 10.0
"""A learning rate further than this factor from what the adapter usually takes is warned about (MISSION T3)."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run computes; written before it starts, stored in each checkpoint. How many ranks share the work is no part of it."""

    steps: int
    rows: int
    batch_size: int
    micro_tokens: int
    learning_rate: float
    warmup: int
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: float
    clip: float
    precision: Literal["fp32", "bf16", "fp16"]
    seed: int
    validate_every: int
    checkpoint_every: int
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    patience: int | None = None
    keep: Literal["best", "last"] = "last"
    ema: float | None = None
    order: Literal["random", "shared"] = "random"

    @property
    def steps_per_epoch(self) -> int:
        """ceil(rows / batch): the last batch of an epoch may be smaller (MISSION T5)."""
        return math.ceil(self.rows / self.batch_size)

    @property
    def epochs(self) -> float:
        """The other way round: how many times the run goes over its rows."""
        return self.steps / self.steps_per_epoch


def steps_for(rows: int, batch_size: int, epochs: float | None, max_steps: int | None) -> int:
    """Steps of a run: max_steps, or epochs (default 1) times ceil(rows / batch)."""
    return max_steps if max_steps is not None else max(1, round((1.0 if epochs is None else epochs) * math.ceil(rows / batch_size)))


def steps_within(token_budget: int, tokens: int, rows: int, batch_size: int) -> int:
    """The most steps whose input tokens stay within `token_budget`, where the `rows` rows hold `tokens` input tokens; at least one."""
    return max(1, token_budget * math.ceil(rows / batch_size) // tokens)


def make_plan(
    rows: int, *, batch_size: int, epochs: float | None, max_steps: int | None, warmup: float, validations: int, checkpoints: int, **rest: Any
) -> Plan:
    """The plan of a run over `rows` rows; shares become steps. Raises InputError when the rows do not fill one batch (MISSION T6)."""
    if batch_size > rows:
        raise InputError(Problem("train.batch_size", f"{rows} training rows are fewer than one batch of {batch_size}", "lower batch_size or bring more rows"))
    steps = steps_for(rows, batch_size, epochs, max_steps)
    every = {"validate_every": validations, "checkpoint_every": checkpoints}
    spacing: dict[str, Any] = {name: math.ceil(steps / times) if times else 0 for name, times in every.items()}
    return Plan(steps=steps, rows=rows, batch_size=batch_size, warmup=warmup_steps(warmup, steps), **spacing, **rest)


def warnings(plan: Plan, usual_rate: float) -> list[str]:
    """What is allowed and seldom right: a rate outside the adapter's 10x band (MISSION T3), more than 5 epochs, fewer than 50 steps (MISSION T5)."""
    found = []
    if not usual_rate / BAND <= plan.learning_rate <= usual_rate * BAND:
        found.append(f"learning_rate {plan.learning_rate:g} is more than {BAND:g} times off the usual {usual_rate:g}; planish train --find-lr measures one")
    if plan.epochs > MANY_EPOCHS:
        found.append(f"{plan.epochs:.1f} epochs: beyond {MANY_EPOCHS} a model rather memorises its rows; watch the validation loss")
    if plan.steps < FEW_STEPS:
        found.append(f"{plan.steps} steps: under {FEW_STEPS} little is learnt; lower batch_size, or raise epochs or the number of rows")
    return found


def batch_rows(plan: Plan, step: int, classes: NDArray[np.int64] | None = None) -> list[int]:
    """The rows of a step, from the seeded permutation of its epoch; with `classes` (N,), in the order in which rows that share a prefix meet (`data.batches`)."""
    epoch, at = divmod(step, plan.steps_per_epoch)
    order = _epoch_order(plan.rows, plan.batch_size, plan.seed, epoch, classes.tobytes() if classes is not None else None)
    return [int(row) for row in order[at * plan.batch_size : (at + 1) * plan.batch_size]]


@lru_cache(maxsize=2)
def _epoch_order(rows: int, batch_size: int, seed: int, epoch: int, classes: bytes | None) -> NDArray[np.int64]:
    if classes is not None:
        return shared_order(np.frombuffer(classes, np.int64), batch_size, seed, epoch)
    return np.random.default_rng((seed, epoch)).permutation(rows)


def named(rows: Seq[int], names: Seq[str]) -> list[str]:
    """Rows by their ids where ids are known, else by their places."""
    return [names[row] if names else str(row) for row in rows]
