"""The line of `planish preflight` about memory: what each training entry takes of this machine, by the estimate of `planish plan` (MISSION K4, T7)."""

from __future__ import annotations

from collections.abc import Sequence

from planish import plan
from planish.errors import InputError
from planish.model.machine import Machine
from planish.model.oom_ladder import AUTOMATIC
from planish.model.preflight_files import Line
from planish.recipe import Recipe


def lines(recipe: Recipe, where: Machine | None = None) -> list[Line]:
    """A line per training entry; red where the estimate is beyond the machine (None: this one) even after all that the run may do by itself."""
    try:
        planned = plan.plan(recipe, where or plan.machine(None, None)) if recipe.train else []
    except InputError as refused:  # what is wrong with rows or model has lines of its own; an architecture that is not known can only be measured
        return [Line("memory", "ok", f"not estimated: {problem.why}; planish plan --measure runs two steps") for problem in refused.problems]
    return [_line(one, recipe.train[one.entry].on_out_of_memory) for one in planned]


def _line(one: plan.Planned, allowed: Sequence[str]) -> Line:
    told = f"train[{one.entry}] takes {plan.size(one.estimate.total)} of {plan.size(one.machine.bytes)} (estimated)"
    if one.estimate.total <= one.machine.bytes:
        return Line("memory", "ok", told)
    levers = plan.last_of_each(one.descent.levers)
    if not one.descent.fits:
        return Line("memory", "red", told, "a smaller model, or a machine with more memory: nothing makes it fit (planish plan)")
    if any(lever.kind not in (*AUTOMATIC, *allowed) for lever in levers):
        return Line("memory", "red", told, "; ".join(lever.change for lever in levers))
    return Line("memory", "ok", told + "; " + ", ".join(lever.name for lever in levers) + ": the run does so by itself")
