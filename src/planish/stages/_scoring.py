"""Answers to a gold set turned into a report: the same code for a solver, a tuned model, a 4-bit file and a live endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planish import shelf
from planish.errors import InputError, Problem
from planish.recipe import Use
from planish.scores import EvalReport, Metric, Score
from planish.stages._gold import Gold


@dataclass(frozen=True)
class Judged:
    """A report, and the metric by which its systems are ranked."""

    report: EvalReport
    primary: str


def judge(system: str, answers: Sequence[str | None], gold: Gold, scorers: Sequence[Use], seconds: float) -> Judged:
    """Score every answer with every scorer; metrics are named `<scorer>.<metric>`. The first scorer's rows are the report's rows; what the others say of a row
    stands in its details under their names, so that their metrics can be paired too."""
    metrics: dict[str, Metric] = {}
    rows, primary = None, ""
    for use in scorers:
        module = shelf.find("scorers", use.name).load()
        score = shelf.call("scorers", use.name, "score", use.options)
        scores = _each(score, gold, answers)
        for name, metric in module.metrics(scores, gold.labels, groups=gold.groups).items():
            metrics[f"{use.name}.{name}"] = metric.model_copy(update={"name": f"{use.name}.{name}"})
        if rows is None:
            rows, primary = scores, f"{use.name}.{module.PRIMARY}"
        else:
            rows = [_with(row, other, use.name) for row, other in zip(rows, scores, strict=True)]
    report = EvalReport(system=system, gold=gold.sha256, metrics=metrics, scores=rows or [], seconds=seconds)
    return Judged(report, primary)


def _each(score: Callable[..., Score], gold: Gold, answers: Sequence[str | None]) -> list[Score]:
    """Every answer scored. Raises InputError for every row whose reference the scorer cannot use, all at once."""
    scores: list[Score] = []
    problems: list[Problem] = []
    for sample, answer in zip(gold.samples, answers, strict=True):
        try:
            scores.append(score(sample, answer))
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return scores


def _with(row: Score, other: Score, scorer: str) -> Score:
    return row.model_copy(update={"detail": row.detail | {f"{scorer}.{name}": item for name, item in other.detail.items()}})
