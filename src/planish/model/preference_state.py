"""What the figures of a preference run say: both answers falling, stuck at ln 2, or in order (MISSION P2); whether it learnt length is in preference_lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

FEWEST = 20
"""Steps below which the figures of single batches are noise."""
NEAR = 0.005
"""Nats from ln 2 within which a loss has not moved."""
STILL = 1e-6
"""Log-ratios smaller than this are rounding: the policy is its reference."""


class State(NamedTuple):
    """One finding: its name, the step it holds from (counted from 1), the figures it stands on, and what to do."""

    state: Literal["too_early", "healthy", "both_falling", "stuck_at_ln2", "length_bias"]
    since_step: int
    evidence: str
    fix: str


def states(history: Sequence[Mapping[str, float]]) -> list[State]:
    """The states that the last quarter of a run is in. `history`: one line a step with loss, margin, chosen_log_ratio and rejected_log_ratio.

    Both falling: both mean log-ratios lie more than two standard errors below 0. Stuck: the mean loss is within NEAR of ln 2, which is the loss of equal margins.
    """
    if len(history) < FEWEST:
        return [State("too_early", 1, f"{len(history)} steps", f"look again after {FEWEST}")]
    start = len(history) - max(len(history) // 4, FEWEST // 4)
    last = history[start:]
    found = [state for state in (_stuck(last, start + 1), _falling(last, start + 1)) if state is not None]
    margin = fmean(line["margin"] for line in last)
    return found or [State("healthy", start + 1, f"mean margin {margin:.3f}, mean loss {fmean(line['loss'] for line in last):.4f}", "")]


def _stuck(last: Sequence[Mapping[str, float]], since: int) -> State | None:
    loss = fmean(line["loss"] for line in last)
    if abs(loss - math.log(2)) > NEAR:
        return None
    moved = max(abs(line[name]) for line in last for name in ("chosen_log_ratio", "rejected_log_ratio"))
    if moved < STILL:
        return State("stuck_at_ln2", since, f"mean loss {loss:.4f} and every log-ratio 0", "the policy is its reference: look whether any trained weight moves")
    return State(
        "stuck_at_ln2", since, f"mean loss {loss:.4f}, log-ratios up to {moved:.4f}", "raise learning_rate, or look whether the pairs can be told apart"
    )


def _falling(last: Sequence[Mapping[str, float]], since: int) -> State | None:
    means = []
    for name in ("chosen_log_ratio", "rejected_log_ratio"):
        values = [line[name] for line in last]
        mean = fmean(values)
        if mean + 2 * stdev(values) / math.sqrt(len(values)) >= 0 or abs(mean) < STILL:
            return None
        means.append(mean)
    evidence = f"mean log-ratio {means[0]:.3f} of the chosen and {means[1]:.3f} of the rejected answers"
    return State("both_falling", since, evidence, "lower learning_rate or raise beta; train on the chosen answers first, or add their likelihood (orpo)")
