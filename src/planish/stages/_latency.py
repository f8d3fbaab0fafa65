"""A pruning to a latency target: as few units taken out as bring a next-token step, measured on this machine, to the target (MISSION Z9)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from planish.errors import InputError, Problem
from planish.model import step_time
from planish.model.cut_folder import Source
from planish.model.step_time import StepTime
from planish.model.units import cut_config
from planish.stages._prune import Removal, in_blocks, shape_of

GRAIN = 64
"""The search stops at this part of the units: the clock is not finer."""


def milliseconds(given: str) -> float:
    """A token's time of `20 ms` or `60 tokens/s`. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|tokens/s)", given.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(Problem("latency", f'"{given}" is no latency', "20 ms a token, or 60 tokens/s"))
    return float(match[1]) if match[2] == "ms" else 1000 / float(match[1])


def to_latency(
    source: Source, given: str, kind: str, removal: Removal, measured: Callable[[Mapping[str, Any]], float] | None = None
) -> tuple[Removal, StepTime]:
    """`removal` with as many more units of one kind (layers, heads, channels) as bring a step to the target, and what was measured; `measured` gives the seconds of a
    configuration's step, those of this machine where it is left out.

    Raises InputError for a target that is met already, and for one out of reach, with the fastest that this kind of unit reaches.
    """
    units, target = source.units, milliseconds(given)
    most = {"layers": units.layers, "heads": units.groups, "channels": units.channels}[kind] - 1
    found: dict[int, float] = {}

    def of(count: int) -> float:
        if count not in found:
            cut = shape_of(units, removal.model_copy(update={kind: count}))
            found[count] = 1000 * (measured or step_time.step_seconds)(cut_config(source.config, units, cut))
        return found[count]

    if of(0) <= target:
        raise InputError(Problem("latency", f"a token takes {of(0):.2f} ms already, {target:.2f} ms is no less", "give a smaller target"))
    if of(most) > target:
        why = f"a token takes {of(0):.2f} ms, and {of(most):.2f} ms with all {kind} gone but one: {target:.2f} ms is impossible"
        raise InputError(Problem("latency", why, f"the nearest that {kind} reach is {of(most):.2f} ms; remove other units too, quantise, or distil"))
    low, high = 0, most  # of(low) > target >= of(high)
    while high - low > max(1, most // GRAIN):
        middle = (low + high) // 2
        low, high = (low, middle) if of(middle) <= target else (middle, high)
    high = in_blocks(units, kind, high)
    return removal.model_copy(update={kind: high}), StepTime(target=target, before=of(0), after=of(high), how=step_time.how())
