"""A training curve as figures, and what every judgement of it needs: its ends, its fall, and its own noise (MISSION T9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

ERRORS = 2.0
"""Standard errors that make a difference."""
LITTLE = 0.02
"""Share of the start: a smaller fall is none."""


@dataclass(frozen=True)
class Curve:
    """Figures of a run, one a step, and `validation` as (step, loss). `random_start` says that the weights were drawn, `chance` is the loss of one who knows the labels' shares
    only (nats a trained token), `gold` the final loss on gold rows, `weight_change` the trained weights' relative change. What is None is not judged."""

    steps: Sequence[int]
    loss: Sequence[float]
    grad_norm: Sequence[float] = ()
    learning_rate: Sequence[float] = ()
    validation: Sequence[tuple[int, float]] = ()
    validation_se: float | None = None
    skipped: Sequence[int] = ()
    vocabulary: int | None = None
    random_start: bool = False
    usual_rate: float | None = None
    trained_tokens: int | None = None
    weight_change: float | None = None
    chance: float | None = None
    gold: float | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """One state, from which step on, the figures that show it, and what to change in the recipe."""

    state: str
    since_step: int
    evidence: str
    fix: str


@dataclass
class Seen:
    """A curve with the figures that several states ask for."""

    curve: Curve
    finite: list[tuple[int, float]] = field(init=False)
    start: float = field(init=False)
    end: float = field(init=False)
    noise: float = field(init=False)
    few: int = field(init=False)

    def __post_init__(self) -> None:
        self.finite = [(step, loss) for step, loss in zip(self.curve.steps, self.curve.loss, strict=True) if math.isfinite(loss)]
        values = [loss for _, loss in self.finite] or [math.nan]
        self.few = max(1, min(10, len(values) // 10))
        self.start, self.end = fmean(values[: max(1, self.few // 2)]), fmean(values[-self.few :])
        self.noise = noise(values)

    @property
    def values(self) -> list[float]:
        return [loss for _, loss in self.finite]

    @property
    def fall(self) -> float:
        return self.start - self.end

    @property
    def fell(self) -> bool:
        """Whether the training loss fell, by more than its noise and by more than nothing."""
        return self.fall > max(ERRORS * self.noise * math.sqrt(2 / self.few), LITTLE * abs(self.start))

    def level(self, low: float, high: float) -> float:
        """Mean loss between two shares of the run."""
        values = self.values
        return fmean(values[int(low * len(values)) : max(int(low * len(values)) + 1, int(high * len(values)))])


def best(curve: Curve) -> tuple[int, float]:
    """Step and loss of the best validation."""
    return min(curve.validation, key=lambda check: check[1])


def noise(values: Sequence[float]) -> float:
    """Standard deviation of a series about its trend, from its second differences; 0 for fewer than three."""
    bends = [abs(values[at - 1] - 2 * values[at] + values[at + 1]) for at in range(1, len(values) - 1)]
    return median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0
