"""Learning-rate schedules (MISSION T3): warm up linearly from 0 over w steps, then constant, linear to 0, or cosine to 0 at step N."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, schedule: Literal["cosine", "linear", "constant"]) -> float:
    """The rate at `step` (0-based): peak * s/w while s < w; cosine: peak * 0.5 (1 + cos(pi (s-w)/(N-w))). Raises ValueError when w >= N."""
    if warmup >= steps:
        raise ValueError(f"warm-up of {warmup} steps leaves nothing of a run of {steps}")
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / (steps - warmup)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    return peak * (1 - done) if schedule == "linear" else peak


def warmup_steps(share: float, steps: int) -> int:
    """3 % of 96 steps is 3: rounded up, and always less than the run. A one-step run has none."""
    return min(math.ceil(share * steps), steps - 1)
