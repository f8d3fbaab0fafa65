"""Answers to a gold set turned into a report: the same code for a solver, a tuned model, a 4-bit file and a live endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish import shelf
from planish.recipe import Use
from planish.scores import EvalReport, Metric
from planish.stages._gold import Gold


@dataclass(frozen=True)
class Judged:
    """A report, and the metric by which its systems are ranked."""

    report: EvalReport
    primary: str


def judge(system: str, answers: Sequence[str | None], gold: Gold, scorers: Sequence[Use], seconds: float) -> Judged:
    """Score every answer with every scorer; metrics are named `<scorer>.<metric>`. The first scorer's rows are the report's rows."""
    metrics: dict[str, Metric] = {}
    rows, primary = None, ""
    for use in scorers:
        module = shelf.find("scorers", use.name).load()
        score = shelf.call("scorers", use.name, "score", use.options)
        scores = [score(sample, answer) for sample, answer in zip(gold.samples, answers, strict=True)]
        for name, metric in module.metrics(scores, gold.labels, groups=gold.groups).items():
            metrics[f"{use.name}.{name}"] = metric.model_copy(update={"name": f"{use.name}.{name}"})
        if rows is None:
            rows, primary = scores, f"{use.name}.{module.PRIMARY}"
    report = EvalReport(system=system, gold=gold.sha256, metrics=metrics, scores=rows or [], seconds=seconds)
    return Judged(report, primary)
