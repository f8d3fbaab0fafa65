"""The curve doctor while a run goes on: a state is said while it can still be acted on, once, and nothing is said of a healthy run (MISSION T9)."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from planish.model.curve import Step
from planish.model.plan import Plan, make_plan
from planish.stages._live_doctor import LiveDoctor

STEPS = 200


def plan(rate: float = 2e-4) -> Plan:
    settings: dict[str, Any] = {"schedule": "cosine", "weight_decay": 0.0, "clip": 1.0, "seed": 1, "micro_tokens": 512, "precision": "fp32"}
    return make_plan(800, batch_size=8, epochs=None, max_steps=STEPS, warmup=0.1, validations=10, checkpoints=0, learning_rate=rate, **settings)


def curve(loss: Callable[[int], float], check: Callable[[int], float], norm: float = 1.0) -> list[Step]:
    """A run of 200 steps with noise of 0.02 and a validation every 20."""
    noise = random.Random(7)
    lines = []
    for step in range(1, STEPS + 1):
        value = loss(step) + noise.gauss(0, 0.02)
        lines.append(Step(step, 0, 0, value, norm, 1e-4, 1.0, 1.0, check(step) if step % 20 == 0 else None, skipped=not math.isfinite(value)))
    return lines


class Warned:
    """What the doctor says, and after which step."""

    def __init__(self, lines: list[Step], rate: float = 2e-4, earlier: Path | None = None) -> None:
        self.said: list[tuple[int, str]] = []
        self._step = 0
        doctor = LiveDoctor(plan(rate), 2e-4, None, self._hear)
        if earlier is not None:
            doctor.begin(earlier)
        for line in lines:
            self._step = line.step
            doctor.add(line)

    def _hear(self, text: str, diagnosis: dict[str, Any]) -> None:
        assert diagnosis["fix"] in text
        self.said.append((self._step, diagnosis["state"]))

    @property
    def states(self) -> list[str]:
        return [state for _, state in self.said]


def fall(step: int) -> float:
    """From 2.2 to 0.3, steepest at first."""
    return 0.3 + 1.9 * math.exp(-step / 40)


def over(step: int) -> float:
    """Validation that falls for 60 steps and rises from then on."""
    return fall(step) + 0.1 if step <= 60 else fall(60) + 0.1 + (step - 60) * 0.006


def test_t9_over_fitting_is_said_once_and_long_before_the_end() -> None:
    """MISSION T9: three checks after the best one (step 60) have risen at step 120; it is said by 160 of 200, once."""
    warned = Warned(curve(lambda step: fall(2 * step), over))
    assert warned.states == ["overfit"]
    assert 120 <= warned.said[0][0] <= 160


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (curve(lambda step: 4.0 if 30 < step < 60 else 2.0, lambda step: 2.0), "lr_too_high"),
        (curve(lambda step: math.nan if step > 30 else 2.0, lambda step: 2.0), "diverging"),
        (curve(lambda step: 2.0, lambda step: 2.0, norm=0.0), "not_learning"),
    ],
    ids=["thrown up", "not finite", "no gradient"],
)
def test_t9_a_run_that_is_lost_is_said_to_be_in_its_first_half(lines: list[Step], state: str) -> None:
    warned = Warned(lines)
    first = {said: step for step, said in reversed(warned.said)}
    assert first[state] <= STEPS / 2
    assert len(warned.states) == len(set(warned.states))


def test_t9_nothing_is_said_of_a_healthy_run_nor_of_its_warm_up() -> None:
    """It falls all the way; while the rate warms up it is flat, and neither is a rate too low nor a plateau."""
    assert Warned(curve(fall, lambda step: fall(step) + 0.05)).said == []
    late = Warned(curve(lambda step: fall(max(0, step - 20)), lambda step: fall(max(0, step - 20)) + 0.05))
    assert late.said == []


def test_a_resumed_run_knows_its_first_half(tmp_path: Path) -> None:
    """Cut after step 130 and gone on with, it is over-fitting by the same figures; the later half alone would not show it."""
    lines = curve(lambda step: fall(2 * step), over)
    figures = tmp_path / "metrics.jsonl"
    figures.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines[:130]), encoding="utf-8")
    assert Warned(lines[130:], earlier=figures).states == ["overfit"]
    assert Warned(lines[130:]).states == []
