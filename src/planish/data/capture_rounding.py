"""What a compact capture keeps of a logarithm, and gives back.

A log-probability l becomes a level. Levels lie 1 / steps apart at l = 0, and e^(GROWTH |l|) times as far at l, up to WIDEST: a token's error counts by its probability, so that
an unlikely one may be told more coarsely. What the kept tokens leave at a temperature becomes its log-odds in steps of 1 / (2 steps): neither a small rest nor a small kept
part is lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planish.data.rans import Ints

GROWTH, WIDEST = 0.4, 8.0
_FAR = float(np.log(WIDEST)) / GROWTH
_LEVELS = (1 - 1 / WIDEST) / GROWTH
"""Levels up to _FAR nats, where they are widest, by steps."""
LEAST, MOST_ODDS = 1e-12, 28.0
"""The least that is ever left, and the largest log-odds."""
DRAWN_STEPS = 64
Floats = NDArray[np.float64]


def levels_of(log_probs: Floats, steps: int) -> Ints:
    """The nearest levels."""
    below = np.maximum(-log_probs, 0.0)
    near = -np.expm1(-GROWTH * np.minimum(below, _FAR)) / GROWTH
    return np.rint(steps * (near + np.maximum(below - _FAR, 0.0) / WIDEST)).astype(np.int64)


def log_probs_of(levels: Ints, steps: int) -> Floats:
    """Where the levels lie."""
    at = levels / steps
    near = -np.log1p(-GROWTH * np.minimum(at, _LEVELS)) / GROWTH
    return -(near + np.maximum(at - _LEVELS, 0.0) * WIDEST)


def rests_of(left: Floats, steps: int) -> Ints:
    """left: what the kept tokens leave of 1."""
    left = np.clip(left, LEAST, 1 - LEAST)
    odds = np.clip(np.log(left) - np.log1p(-left), -MOST_ODDS, MOST_ODDS)
    return np.asarray(np.rint((odds + MOST_ODDS) * 2 * steps), np.int64)


def shares_of(rests: Ints, steps: int) -> tuple[Floats, Floats]:
    """ln of what is left and ln of what is kept: 1 together."""
    odds = rests / (2 * steps) - MOST_ODDS
    return -np.logaddexp(0.0, -odds), -np.logaddexp(0.0, odds)


def scaled(counts: Ints, log_probs: Floats, rests: Ints, steps: int, T: float) -> tuple[Floats, Floats, Floats]:
    """Positions at a temperature. counts: (N,); log_probs: (sum,) at T=1; rests: (M,) of those with counts > 0. Gives the log-probabilities at T, (N,) ln of what is left, 0
    where nothing is known, and (N,) what was added to log_probs / T."""
    spoken, owner = counts > 0, np.repeat(np.arange(len(counts)), counts)
    tail, shift = np.zeros(len(counts)), np.zeros(len(counts))
    tail[spoken], kept = shares_of(rests, steps)
    shift[spoken] = kept - np.log(np.bincount(owner, np.exp(log_probs / T), minlength=len(counts))[spoken])
    return log_probs / T + shift[owner], tail, shift


def drawn_levels_of(log_probs: Floats) -> Ints:
    """Logarithms of draws, which are weights: evenly spaced."""
    return np.rint(-log_probs * DRAWN_STEPS).clip(0, 65535).astype(np.int64)


def drawn_of(levels: Ints) -> Floats:
    """Where those lie."""
    return -levels / DRAWN_STEPS
