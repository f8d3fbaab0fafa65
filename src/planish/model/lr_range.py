"""The learning-rate range test: one sweep of growing rates over a throw-away copy of the weights, and the rate it suggests (MISSION T4; arXiv 1506.01186).

lr_i = lo (hi / lo)^(i / (n - 1)). The suggestion is the smaller of the rate at which the smoothed loss falls steepest and a third of the rate at which it turns to
diverge. Where the loss never falls by more than its own noise there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from planish.model.checkpoint import Position, State
from planish.model.example import Example
from planish.model.optimizer import optimizer_for, trainable
from planish.model.plan import Plan, batch_rows
from planish.model.precision import scaler
from planish.model.ranks import ALONE
from planish.model.step import LossFunction, Work, one_step

LOW, HIGH, COUNT = 1e-6, 1e-2, 100
WINDOW = 5
"""Losses in a smoothed value, centred, so that smoothing moves no turn of the curve."""
BLOWN_UP = 4.0
"""The sweep ends when the running loss is this many times the lowest it has been."""
CLEAR = 2.5
"""A descent is one when it is this many times the noise around the smoothed curve."""


@dataclass(frozen=True)
class RangeTest:
    """`lr`, `loss` and `smoothed` of the rates that were reached; `diverges` and `steepest` where they were met; `why` says why nothing is suggested."""

    lr: list[float]
    loss: list[float]
    smoothed: list[float]
    steepest: float | None
    diverges: float | None
    suggested: float | None
    why: str = ""


def rates(low: float = LOW, high: float = HIGH, count: int = COUNT) -> list[float]:
    """`count` rates from `low` to `high`, each the same factor above the one before."""
    return [low * (high / low) ** (index / (count - 1)) for index in range(count)]


def sweep(step: Callable[[float], float], grid: Seq[float]) -> RangeTest:
    """Call `step(lr)`, which updates and gives the loss before the update, over the grid until the loss blows up; and judge the curve."""
    losses: list[float] = []
    running, lowest, blown_up = 0.0, math.inf, False
    for index, rate in enumerate(grid):
        value = step(rate)
        running = value if index == 0 else 0.8 * running + 0.2 * value
        if not math.isfinite(value) or (index >= WINDOW and running > BLOWN_UP * lowest):
            blown_up = True
            break
        losses.append(value)
        lowest = min(lowest, running)
    return _judged(list(grid[: len(losses)]), losses, blown_up)


def lr_range_test(
    model: nn.Module,
    examples: Seq[Example],
    loss: LossFunction,
    plan: Plan,
    *,
    low: float = LOW,
    high: float = HIGH,
    count: int = COUNT,
    device: str = "cpu",
    on_step: Callable[[float, float], None] = lambda *_: None,
) -> RangeTest:
    """The test over the batches of a plan, with its optimizer. Weights, random state and mode are as before when it is done, whatever happened."""
    alone = replace(ALONE, device=device)
    work = Work(plan, alone, alone.forward(model, plan.precision, loss))
    state = State(model, optimizer_for(model, plan), scaler(plan.precision, device), None, Position(0, 0))
    at = iter(range(count))

    def step(rate: float) -> float:
        value, *_ = one_step(state, [examples[row] for row in batch_rows(plan, next(at))], work, rate)
        on_step(rate, value)
        return value

    with _as_before(model):
        torch.manual_seed(plan.seed)
        return sweep(step, rates(low, high, count))


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    kept = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
    random, training = torch.get_rng_state(), model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.copy_(kept[name])
                parameter.grad = None
        torch.set_rng_state(random)
        model.train(training)


def _judged(grid: list[float], losses: list[float], blown_up: bool) -> RangeTest:
    if len(losses) < 2 * WINDOW:
        return RangeTest(grid, losses, losses, None, grid[-1] if grid and blown_up else None, None, "the loss was not finite almost at once: begin lower")
    curve = _smoothed(np.array(losses))
    lowest = int(curve.argmin())
    # a third of the losses may jump, and all may follow a trend, before this says more than the noise is
    noise = 1.4826 * float(np.median(np.abs(np.diff(losses, 2)))) / math.sqrt(6)
    fell, rose = float(np.mean(losses[:WINDOW]) - curve[lowest]), float(curve[-1] - curve[lowest])
    diverges = grid[lowest] if blown_up or curve[-1] > BLOWN_UP * curve[lowest] or rose > max(CLEAR * noise, fell / 2) else None
    if lowest == 0 or fell <= CLEAR * noise:
        return RangeTest(
            grid, losses, curve.tolist(), None, diverges, None, "the loss does not fall by more than its own noise: more rows, or a larger batch_size"
        )
    slopes = [after - before for before, after in pairwise(curve[: lowest + 1])]
    steepest = grid[int(np.argmin(slopes)) + 1]
    return RangeTest(grid, losses, curve.tolist(), steepest, diverges, min(steepest, diverges / 3) if diverges is not None else steepest)


def _smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over a window around each loss, narrower at the ends."""
    half = WINDOW // 2
    return np.array([losses[max(0, at - half) : at + half + 1].mean() for at in range(len(losses))])
