"""Whether a merge earns its place: scored beside every parent on that parent's own task, kept only where no parent beats it outside noise (MISSION W6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from planish.errors import InputError, Problem
from planish.evidence import forgetting
from planish.evidence.forgetting import Forgetting
from planish.evidence.paired import compare
from planish.rows import Noun
from planish.scores import Comparison, EvalReport

BASE = "base"
"""What the base is called among the parents: it is scored beside them and owns no task."""


class TaskScores(Noun):
    """One task's gold set: the metric, the parent that was tuned for it (None for general ability), every model's report, and the clusters of rows where there are some."""

    task: str
    metric: str
    owner: str | None
    merge: EvalReport
    parents: dict[str, EvalReport]
    groups: dict[str, str] | None = None


class TaskLine(Noun):
    """One row of the table: merge and parents on one task, and the merge less the owner with its paired interval; where nobody owns it, less the base. Plus is better."""

    task: str
    metric: str
    owner: str | None
    merge: float
    parents: dict[str, float]
    against: str | None
    difference: float | None
    low: float | None
    high: float | None
    n: int
    survived: bool


class MergeVerdict(Noun):
    """`merge`: one model for all tasks. `multi_adapter`: a parent is better on its own task outside noise, so serve each task by its own.

    `forgetting` is the guard C4 of the merge against the base, where general ability was measured on both; it is shown and decides nothing.
    """

    decision: Literal["merge", "multi_adapter"]
    sentence: str
    table: list[TaskLine]
    forgetting: Forgetting | None = None


def verdict(scores: Sequence[TaskScores]) -> MergeVerdict:
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
    owned = [one for one in scores if one.owner is not None]
    if not owned:
        problems.append(Problem("merge", "no parent's task was scored, so there is no verdict", "score the merge and its parents on their gold sets"))
    if problems:
        raise InputError(*problems)
    table = [_line(one) for one in scores]
    lost = [line.task for line in table if not line.survived]
    kept = _forgetting(owned, [one for one in scores if one.owner is None])
    shown = "; ".join(_said(line) for line in table if line.owner is not None)
    tail = "" if kept is None else f" Against the base: {kept.sentence}"
    if lost:
        return MergeVerdict(
            decision="multi_adapter", sentence=f"Keep one adapter each: {', '.join(lost)} did not survive: {shown}.{tail}", table=table, forgetting=kept
        )
    return MergeVerdict(
        decision="merge", sentence=f"Ship the merge as one model: no parent beats it outside noise: {shown}.{tail}", table=table, forgetting=kept
    )


def lines(told: Mapping[str, Any]) -> list[str]:
    """The table of a verdict (as JSON has it) for people: one line a task, every model's score on it, and whether its skill survived."""
    said = []
    for line in told["table"]:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in line["parents"].items())
        found = f"{line['task']} ({line['metric']}, {line['n']} rows): merge {line['merge']:.3f}; {scores}"
        if line["difference"] is not None:
            found += f"; merge less {line['against']} {line['difference']:+.3f} [{line['low']:+.3f}, {line['high']:+.3f}]"
        if line["owner"] is not None:
            found += ": survived" if line["survived"] else ": did NOT survive"
        said.append(found)
    return said


def _line(one: TaskScores) -> TaskLine:
    ours = one.merge.metrics[one.metric]
    against = one.owner if one.owner is not None else BASE if BASE in one.parents else None
    found = None if against is None else _better_is_plus(compare(one.merge, one.parents[against], one.metric, groups=one.groups), ours.higher_is_better)
    return TaskLine(
        task=one.task,
        metric=one.metric,
        owner=one.owner,
        merge=ours.value,
        parents={name: report.metrics[one.metric].value for name, report in one.parents.items()},
        against=against,
        difference=None if found is None else found.difference,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        n=ours.n,
        survived=one.owner is None or found is None or found.high >= 0,
    )


def _forgetting(owned: Sequence[TaskScores], general: Sequence[TaskScores]) -> Forgetting | None:
    """C4 of the merge: the first task on which the base was scored, and general ability, both less the base."""
    first = next((one for one in owned if BASE in one.parents), None)
    broad = next((one for one in general if BASE in one.parents), None)
    if first is None or broad is None:
        return None
    gained = compare(first.merge, first.parents[BASE], first.metric, groups=first.groups)
    gained = _better_is_plus(gained, first.merge.metrics[first.metric].higher_is_better)
    return forgetting.judge(gained, broad.parents[BASE], broad.merge)


def _said(line: TaskLine) -> str:
    assert line.owner is not None
    return f"{line.task} {line.merge:.3f} against {line.parents[line.owner]:.3f} of {line.owner}, {line.difference:+.3f} [{line.low:+.3f}, {line.high:+.3f}]"


def _better_is_plus(found: Comparison, higher_is_better: bool) -> Comparison:
    if higher_is_better:
        return found
    return found.model_copy(update={"difference": -found.difference, "low": -found.high, "high": -found.low})
