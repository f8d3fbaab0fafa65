"""Answers to a gold set turned into a report: the same code for a solver, a tuned model, a 4-bit file and a live endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish import shelf
from planish.data.dataset import Dataset
from planish.recipe import Use
from planish.scores import EvalReport, Metric


@dataclass(frozen=True)
class Judged:
    """A report, and the metric by which its systems are ranked."""

    report: EvalReport
    primary: str


def judge(system: str, answers: Sequence[str | None], data: Dataset, scorers: Sequence[Use], seconds: float) -> Judged:
    """Score every answer with every scorer; metrics are named `<scorer>.<metric>`. The first scorer's rows are the report's rows."""
    metrics: dict[str, Metric] = {}
    rows, primary = None, ""
    for use in scorers:
        module = shelf.find("scorers", use.name).load()
        score = shelf.call("scorers", use.name, "score", use.options)
        scores = [score(sample, answer) for sample, answer in zip(data.gold.samples, answers, strict=True)]
        for name, metric in module.metrics(scores, data.gold.labels, groups=data.gold_groups).items():
            metrics[f"{use.name}.{name}"] = metric.model_copy(update={"name": f"{use.name}.{name}"})
        if rows is None:
            rows, primary = scores, f"{use.name}.{module.PRIMARY}"
    report = EvalReport(system=system, gold=data.gold.sha256, metrics=metrics, scores=rows or [], seconds=seconds)
    return Judged(report, primary)
