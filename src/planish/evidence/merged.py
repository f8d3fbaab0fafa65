"""Whether a merge earns its place: scored beside every parent on that parent's own task, kept only where no parent beats it outside noise (MISSION W6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from planish.errors import InputError, Problem
from planish.evidence.paired import compare
from planish.rows import Noun
from planish.scores import Comparison, EvalReport


class TaskScores(Noun):
    """One task's gold set: the metric, the parent that was tuned for it (None for the base's and for general ability), and every model's report."""

    task: str
    metric: str
    owner: str | None
    merge: EvalReport
    parents: dict[str, EvalReport]


class TaskLine(Noun):
    """One row of the table: merge and parents on one task, and the merge less the owner with its paired interval. Plus is better."""

    task: str
    metric: str
    owner: str | None
    merge: float
    parents: dict[str, float]
    difference: float | None
    low: float | None
    high: float | None
    survived: bool


class MergeVerdict(Noun):
    """`merge`: one model for all tasks. `multi_adapter`: a parent is better on its own task outside noise, so serve each task by its own."""

    decision: Literal["merge", "multi_adapter"]
    sentence: str
    table: list[TaskLine]


def verdict(scores: Sequence[TaskScores], *, groups: Mapping[str, str] | None = None) -> MergeVerdict:
    """Keep the merge if on no task its owner beats it outside noise (paired 95 % interval wholly below 0). Losses inside noise are shown all the same.

    Raises InputError with no task, a task given twice, an owner that was not scored, or reports that are not on the same rows.
    """
    names = [one.task for one in scores]
    problems = [Problem(f"merge: {name}", "is given twice", "score each task once") for name in {*names} if names.count(name) > 1]
    problems += [
        Problem(f"merge: {one.task}", f"its parent {one.owner} was not scored on it", "score every parent on every task")
        for one in scores
        if one.owner is not None and one.owner not in one.parents
    ]
    if not any(one.owner is not None for one in scores):
        problems.append(Problem("merge", "no parent's task was scored, so there is no verdict", "score the merge and its parents on their gold sets"))
    if problems:
        raise InputError(*problems)
    table = [_line(one, groups) for one in scores]
    lost = [line for line in table if not line.survived]
    shown = "; ".join(
        f"{line.task} {line.merge:.3f} against {line.parents[line.owner]:.3f} of {line.owner}, {line.difference:+.3f} [{line.low:+.3f}, {line.high:+.3f}]"
        for line in table
        if line.owner is not None
    )
    if lost:
        return MergeVerdict(
            decision="multi_adapter", sentence=f"Keep one adapter each: {', '.join(line.task for line in lost)} did not survive: {shown}.", table=table
        )
    return MergeVerdict(decision="merge", sentence=f"Ship the merge as one model: no parent beats it outside noise: {shown}.", table=table)


def _line(one: TaskScores, groups: Mapping[str, str] | None) -> TaskLine:
    ours = one.merge.metrics[one.metric]
    found = None if one.owner is None else _better_is_plus(compare(one.merge, one.parents[one.owner], one.metric, groups=groups), ours.higher_is_better)
    return TaskLine(
        task=one.task,
        metric=one.metric,
        owner=one.owner,
        merge=ours.value,
        parents={name: report.metrics[one.metric].value for name, report in one.parents.items()},
        difference=None if found is None else found.difference,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        survived=found is None or found.high >= 0,
    )


def _better_is_plus(found: Comparison, higher_is_better: bool) -> Comparison:
    if higher_is_better:
        return found
    return found.model_copy(update={"difference": -found.difference, "low": -found.high, "high": -found.low})
