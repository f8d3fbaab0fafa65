"""Whether a preference run learnt that longer is better: the implicit reward of held-out answers goes with their length, that of the worse answers too (MISSION P1, P2).

A policy that learnt what is better rewards a long good answer and punishes a long bad one: every token adds to either. Only where length itself is paid for does the reward rise
with length on both sides, and only where the better answers are the longer ones was that to be learnt from the pairs. Both are asked for, so that a length-matched set and a
run whose likelihoods all rise are no alarm. Source: Park et al. 2024, "Disentangling length from quality in direct preference optimization", arXiv 2403.19159.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from planish.model.preference_state import FEWEST, State

CORRELATION = "_length_correlation"
"""Behind the name of a side: Pearson's r of its reward and its length over pairs, or over the answers of that side."""
LONGER = 1.1
"""Held-out better answers are at least so many times as long as the worse ones."""
RELATED = 0.3
"""Pearson's r of reward and length that either side must have: a tenth of the reward's variance."""
MATCHED = "pairs of like length: planish check (preferences) counts those that are; more of them whose better answer is the shorter one"
"""What is to be done where the objective's reward is a mean over tokens already."""
BEGUN = 10
"""One step of so many, at least FEWEST / 4, shows what a policy without a reference paid for before it learnt."""


def learnt_length(
    history: Sequence[Mapping[str, float]],
    checks: Sequence[Mapping[str, float]],
    *,
    fix: str = MATCHED,
    sides: tuple[str, str] = ("chosen", "rejected"),
    measured_from: str = "reference",
) -> list[State]:
    """`length_bias` from the validation on since which it holds to the end; nothing where it does not, or where nothing was held out.

    `checks`: the figures of each validation and its `step`. On each `sides` the correlation must be at least RELATED, with its 95 % lower bound (Fisher's z) above 0, where the
    run began at 0: a reward against a reference is 0 then. Of a reward that is a likelihood (`measured_from` "start") it must have risen by RELATED since the first steps.
    """
    if len(history) < FEWEST:
        return []
    start = {side: 0.0 if measured_from == "reference" else _start(history, side + CORRELATION) for side in sides}
    since = None
    for check in reversed(checks):
        if not _shows(check, sides, start):
            break
        since = check
    if since is None:
        return []
    last = checks[-1]
    told = ", ".join(f"{last[side + CORRELATION]:+.2f} on the {last[side + CORRELATION + '_n']:.0f} {side} ones" for side in sides)
    began = "" if measured_from == "reference" else f" (at first {start[sides[0]]:+.2f} and {start[sides[1]]:+.2f})"
    lengths = " and ".join(f"{last[side + '_tokens']:.0f}" for side in sides)
    why = (
        f"the reward of held-out answers goes with their length, {told}{began}, each at least {RELATED:g}; {sides[0]} and {sides[1]} answers have {lengths} tokens: "
        f"at least {LONGER:g} times as many"
    )
    return [State("length_bias", int(since["step"]), why, fix)]


def _start(history: Sequence[Mapping[str, float]], name: str) -> float:
    first = [line[name] for line in history[: max(FEWEST // 4, len(history) // BEGUN)] if name in line]
    return fmean(first) if first else 0.0


def _shows(check: Mapping[str, float], sides: tuple[str, str], start: Mapping[str, float]) -> bool:
    if not all(side + CORRELATION in check and side + "_tokens" in check for side in sides):
        return False
    return check[f"{sides[0]}_tokens"] >= LONGER * check[f"{sides[1]}_tokens"] and all(
        check[side + CORRELATION] - max(0.0, start[side]) >= RELATED and _bound(check[side + CORRELATION], check[side + CORRELATION + "_n"]) > 0
        for side in sides
    )


def _bound(r: float, n: float) -> float:
    """The lower end of the 95 % interval of a correlation, on the scale of Fisher's z."""
    return math.atanh(min(r, 1 - 1e-9)) - 1.96 / math.sqrt(n - 3) if n > 3 else -math.inf
