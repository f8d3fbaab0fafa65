"""The lines of `planish preflight` about a whole recipe: what a run of it would refuse before it begins, and the memory each training entry takes (MISSION K4, T7)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from planish import pipeline, plan
from planish.errors import InputError, Problem
from planish.model.machine import Machine
from planish.model.oom_ladder import AUTOMATIC
from planish.model.preflight_files import Line
from planish.recipe import Recipe
from planish.store import Store


def refusals(recipe: Recipe, workspace: Path) -> tuple[Problem, ...]:
    """What `planish run` would refuse before it begins. A workspace that is not there is not made for it."""
    with TemporaryDirectory() as empty, closing(Store(workspace if workspace.is_dir() else Path(empty))) as store:
        return pipeline.refusals(recipe, store)


def lines(recipe: Recipe, refused: Sequence[Problem], where: Machine | None = None) -> list[Line]:
    """A line per problem of `refused`, and one on memory per training entry of a recipe that a run would begin."""
    if refused:
        return [Line("recipe", "red", f"{problem.where}: {problem.why}", problem.fix) for problem in refused]
    return [Line("recipe", "ok", "a run of it would begin"), *memory(recipe, where)]


def memory(recipe: Recipe, where: Machine | None = None) -> list[Line]:
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
