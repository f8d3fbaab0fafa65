"""The curve doctor while a run goes on: a state that shows at two looks in a row is said, once (MISSION T9)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from planish.evidence.curve_doctor import Curve, diagnose
from planish.model.curve import Step
from planish.model.plan import Plan

LOOKS = 20
"""So often a run is looked at, and at each validation: to look costs the run nothing then."""
FIRST = 10
"""Fewer steps show little."""
SILENT = {"healthy", "too_early", "underfit"}
"""Under-fitting is that a run ended too early, which one that still goes on cannot show."""


class LiveDoctor:
    """Hears every step and calls `warn(words, diagnosis=...)` with the state's fields."""

    def __init__(self, plan: Plan, usual_rate: float, chance: float | None, warn: Callable[..., None]) -> None:
        self._plan, self._usual, self._chance, self._warn = plan, usual_rate, chance, warn
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._checks: list[tuple[int, float]] = []
        self._skipped: list[int] = []
        self._before: set[str] = set()
        self._said: set[str] = set()

    def begin(self, figures: Path) -> None:
        """Take the steps that an earlier start of the run has done."""
        for line in figures.read_text(encoding="utf-8").splitlines():
            self._take(Step(**json.loads(line)))

    def add(self, line: Step) -> None:
        """One more step is done."""
        self._take(line)
        every = max(1, self._plan.steps // LOOKS)
        if len(self._steps) >= FIRST and (line.validation_loss is not None or line.step % every == 0):
            self._look()

    def _take(self, line: Step) -> None:
        self._steps.append(line.step)
        self._losses.append(line.loss)
        self._norms.append(line.grad_norm)
        if line.validation_loss is not None:
            self._checks.append((line.step, line.validation_loss))
        if line.skipped:
            self._skipped.append(line.step)

    def _look(self) -> None:
        curve = Curve(
            self._steps,
            self._losses,
            grad_norm=self._norms,
            learning_rate=[self._plan.learning_rate],  # the rate that it rises to: while it warms up it is low on purpose
            validation=self._checks,
            skipped=self._skipped,
            usual_rate=self._usual,
            chance=self._chance,
            epochs=len(self._steps) / math.ceil(self._plan.rows / self._plan.batch_size),
        )
        found = {one.state: one for one in diagnose(curve) if one.state not in SILENT}
        for state in sorted(found.keys() & self._before - self._said):
            one = found[state]
            self._said.add(state)
            self._warn(f"{state.replace('_', ' ')} since step {one.since_step}: {one.evidence}; {one.fix}", diagnosis=vars(one))
        self._before = set(found)
