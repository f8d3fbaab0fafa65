"""The curve doctor on planted curves: every kind is named, healthy ones are left alone, and the numbers of MISSION T9 come out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planish.evidence.curve import Curve, best, noise
from planish.evidence.curve_doctor import diagnose

STEPS = 200
CHECKS = 10
SEEDS = range(20)
Draw = np.random.Generator


def curve(
    draw: Draw, train: Callable[[Any], Any], check: Callable[[Any], Any] | None = None, *, spread: float = 0.03, checks: int = CHECKS, **more: Any
) -> Curve:
    """A curve of STEPS steps: `train(t)` and `check(t)` over t in (0, 1], with Gaussian noise; validation, on the same rows each time, has a fifth of it."""
    t = np.arange(1, STEPS + 1) / STEPS
    loss = train(t) + draw.normal(0, spread, STEPS)
    at = np.linspace(STEPS / checks, STEPS, checks).astype(int)
    values = (check or train)(at / STEPS) + draw.normal(0, spread / 5, checks)
    settings: dict[str, Any] = {"grad_norm": (0.5 + draw.random(STEPS)).tolist(), "learning_rate": [2e-4] * STEPS, "usual_rate": 2e-4}
    return Curve(
        list(range(1, STEPS + 1)), np.maximum(loss, 1e-4).tolist(), validation=list(zip(at.tolist(), values.tolist(), strict=True)), **{**settings, **more}
    )


def fall(t: Any, top: float = 2.5, floor: float = 0.8, rate: float = 8.0) -> Any:
    return floor + (top - floor) * np.exp(-rate * t)


def not_finite(draw: Draw) -> Curve:
    made = curve(draw, fall)
    return replace(made, loss=[*made.loss[:-4], *[math.nan] * 4], skipped=made.steps[-4:])


def spiked(draw: Draw) -> Curve:
    made = curve(draw, fall, lambda t: fall(t) + 0.05)
    at = int(draw.integers(60, 180))
    return replace(made, loss=[loss + 4.0 * (place == at) for place, loss in enumerate(made.loss)])


MADE: dict[str, Callable[[Draw], Curve]] = {
    "healthy": lambda draw: curve(draw, fall, lambda t: fall(t) + 0.05),
    "healthy, slow to settle": lambda draw: curve(draw, lambda t: fall(t, rate=5.0), lambda t: fall(t, rate=5.0) + 0.1),
    "healthy, noisy batches": lambda draw: curve(draw, fall, lambda t: fall(t) + 0.05, spread=0.15),
    "underfit": lambda draw: curve(draw, lambda t: 2.5 - 1.2 * t, lambda t: 2.55 - 1.15 * t),
    "overfit": lambda draw: curve(draw, lambda t: fall(t, floor=0.2, rate=4.0), lambda t: fall(t, floor=0.9) + 0.8 * np.maximum(0, t - 0.35)),
    "diverging": lambda draw: curve(draw, lambda t: fall(t) + 6 * np.maximum(0, t - 0.3) ** 2),
    "lr_too_high": lambda draw: curve(draw, lambda t: 2.5 + 4 * np.exp(-(((t - 0.1) / 0.04) ** 2)) + 1.5 * (t > 0.1), spread=0.2),
    "lr_too_high, comes back": lambda draw: curve(draw, lambda t: fall(t, rate=30) + 0.8 * (t > 0.4) + 0.3 * np.sin(40 * t) * (t > 0.4), spread=0.05),
    "lr_too_low": lambda draw: curve(draw, lambda t: 2.5 - 0.15 * t, learning_rate=[2e-6] * STEPS),
    "lr_too_low, rates unknown": lambda draw: curve(draw, lambda t: 2.5 - 0.2 * t, learning_rate=(), usual_rate=None),
    "plateau": lambda draw: curve(draw, lambda t: fall(t, floor=2.0, rate=30), lambda t: fall(t, floor=2.05, rate=30)),
    "noisy_labels": lambda draw: curve(draw, lambda t: 1.1 * (1 - t) + 0.05, lambda t: 1.12 + 0.3 * t, chance=math.log(3)),
    "noisy_labels, chance unknown": lambda draw: curve(draw, lambda t: 2.2 * (1 - 0.7 * t), lambda t: 2.2 + 0.4 * t),
    "bad_start": lambda draw: curve(draw, lambda t: fall(t, top=16.0, rate=10), vocabulary=49_152, random_start=True),
    "bad_start, worse than guessing": lambda draw: curve(draw, lambda t: fall(t, top=13.0, rate=10), vocabulary=49_152),
    "zero_trained_tokens": lambda draw: Curve([1, 2, 3], [0.0, 0.0, 0.0], grad_norm=[0.0, 0.0, 0.0]),
    "not_learning": lambda draw: curve(draw, lambda t: 2.5 + 0 * t, grad_norm=[0.0] * STEPS),
    "memorised": lambda draw: curve(draw, lambda t: fall(t, floor=0.0, rate=20), lambda t: fall(t, floor=0.9, rate=20), spread=0.002),
    "saturated": lambda draw: curve(draw, lambda t: fall(t, floor=0.0, rate=20), spread=0.001),
    "diverging, not finite": not_finite,
    "loss_spike": spiked,
}
"""One curve of a kind, by what the doctor is to say of it."""


def planted(kind: str, draw: Draw) -> Curve:
    return MADE[kind](draw)


KINDS = [kind for kind in MADE if not kind.startswith("healthy")]


@pytest.mark.parametrize("kind", KINDS)
def test_t9_planted_kinds_are_named(kind: str) -> None:
    """18 kinds, 20 seeds each: the first state is the planted one, with a step, evidence and a fix."""
    for seed in SEEDS:
        found = diagnose(planted(kind, np.random.default_rng(seed)))
        assert found[0].state == kind.partition(",")[0], (seed, found)
        assert found[0].evidence
        assert found[0].fix


@pytest.mark.parametrize("kind", ["healthy", "healthy, slow to settle", "healthy, noisy batches"])
def test_t9_healthy_ones_are_left_alone(kind: str) -> None:
    """300 seeds each: at most 1 % raise anything (the criterion is two standard errors, sustained)."""
    found = [diagnose(planted(kind, np.random.default_rng(seed))) for seed in range(300)]
    wrong = [(seed, states) for seed, states in enumerate(found) if states[0].state != "healthy"]
    assert len(wrong) <= 3, wrong[:5]


def test_t9_overfit_worked_number() -> None:
    """MISSION T9: training 1.2, .8, .5, .3, .2; validation 1.3, 1.1, 1.15, 1.25, 1.5: over-fitting, the best is check 2. Its noise: bends .25, .05, .15, their median .15 over
    0.6745 sqrt 6 is .0908; the last three lie .2 above the best, 2 SE of that are 2 x .0908 x sqrt(1/3 + 1/3) = .148."""
    checks = [1.3, 1.1, 1.15, 1.25, 1.5]
    made = Curve([1, 2, 3, 4, 5], [1.2, 0.8, 0.5, 0.3, 0.2], validation=list(enumerate(checks, 1)))
    assert noise(checks) == pytest.approx(0.0908, abs=1e-4)
    found = diagnose(made)
    assert [(one.state, one.since_step) for one in found] == [("overfit", 2)]
    assert best(made) == (2, 1.1)
    assert "check 2" in found[0].evidence


def test_t9_random_start() -> None:
    """MISSION T9: a random model of V = 49,152 begins at ln V = 10.80: no word about 10.8, bad start at 13.0 and at 8.0."""
    assert math.log(49_152) == pytest.approx(10.80, abs=0.005)
    for first, bad in ((10.8, False), (13.0, True), (8.0, True)):
        made = Curve([1], [first], vocabulary=49_152, random_start=True)
        assert ("bad_start" in [one.state for one in diagnose(made)]) == bad


def test_t9_too_early() -> None:
    """Four validations of five: too early, whatever they look like; what is broken is said all the same."""
    made = curve(np.random.default_rng(0), fall, checks=4)
    assert [one.state for one in diagnose(made)] == ["too_early"]
    nothing = Curve([1, 2], [1.0, 1.0], grad_norm=[0.0, 0.0])
    assert [one.state for one in diagnose(nothing)] == ["not_learning"]
    with pytest.raises(ValueError, match="without a step"):
        diagnose(Curve([], []))


def test_known_counts_are_believed() -> None:
    draw = np.random.default_rng(0)
    assert diagnose(replace(curve(draw, fall), trained_tokens=0))[0].state == "zero_trained_tokens"
    assert diagnose(replace(curve(draw, fall), weight_change=0.0))[0].state == "not_learning"
    saturated = planted("saturated", draw)
    assert diagnose(replace(saturated, gold=1.4))[0].state == "memorised"
