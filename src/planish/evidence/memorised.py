"""Has a system learned the task or its rows? Its score on rows it was trained on against rows it never saw (MISSION E7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.intervals import RESAMPLES, percentile, resampled, wilson
from planish.evidence.paired import row_groups
from planish.evidence.statistic import mean
from planish.rows import Noun
from planish.scores import EvalReport, Metric

MARGIN = 0.05
"""A gap that is surely larger is called memorising: every trained model is a little better on rows it has seen."""


class Gap(Noun):
    """Mean score (0..1) on trained and on unseen rows, and train - gold with its 95 % interval."""

    train: Metric
    gold: Metric
    difference: float
    low: float
    high: float
    margin: float
    verdict: Literal["memorised", "generalises", "undecided"]
    sentence: str


def gap(
    train: EvalReport, gold: EvalReport, *, train_groups: Mapping[str, str] | None = None, gold_groups: Mapping[str, str] | None = None, margin: float = MARGIN
) -> Gap:
    """Train minus gold. "memorised": surely above `margin`; "generalises": surely not; else "undecided".

    The rows are different ones, so this is no paired test: for right/wrong rows Newcombe's interval from the two Wilson intervals (1998, Statist. Med. 17:873,
    method 10), else the (cluster) bootstrap of each. Raises InputError without rows, and where a row is in both: then it was no gold."""
    both = {score.id for score in train.scores} & {score.id for score in gold.scores}
    problems = [Problem(report.system, "has no scored rows", "score at least one row of each") for report in (train, gold) if not report.scores]
    if both:
        problems.append(Problem(min(both), f"{len(both)} rows are both trained on and gold", "prepare the data again: splits share no row"))
    if problems:
        raise InputError(*problems)
    values = [np.array([score.value for score in report.scores]) for report in (train, gold)]
    if train_groups is None and gold_groups is None and all(np.isin(side, (0, 1)).all() for side in values):
        (l1, u1), (l2, u2) = (wilson(round(side.sum()), len(side)) for side in values)
        how, ends = "wilson", ((l1, u1), (l2, u2))
        difference = float(values[0].mean() - values[1].mean())
        low = difference - math.hypot(values[0].mean() - l1, u2 - values[1].mean())
        high = difference + math.hypot(u1 - values[0].mean(), values[1].mean() - l2)
    else:
        how = f"bootstrap {RESAMPLES}"
        sides = zip(values, (train, gold), (train_groups, gold_groups), strict=True)
        draws = [resampled(mean(side), len(side), groups=row_groups(report, groups), seed=seed) for seed, (side, report, groups) in enumerate(sides)]
        ends = (percentile(draws[0]), percentile(draws[1]))
        difference = float(values[0].mean() - values[1].mean())
        low, high = percentile(draws[0] - draws[1])
    seen, unseen = (
        Metric(name=name, value=float(side.mean()), n=len(side), low=end[0], high=end[1], method=how)
        for name, side, end in zip(("train", "gold"), values, ends, strict=True)
    )
    verdict: Literal["memorised", "generalises", "undecided"] = "memorised" if low > margin else "generalises" if high <= margin else "undecided"
    said = {
        "memorised": f"it knows its training rows better than the task by more than {margin:.0%}: fewer epochs, a lower rank, or more different rows",
        "generalises": f"it does as well on rows it never saw, within {margin:.0%}",
        "undecided": f"whether that is more than {margin:.0%} these rows do not settle",
    }[verdict]
    sentence = f"train {seen.value:.3f} on {seen.n} rows, gold {unseen.value:.3f} on {unseen.n}: gap {difference:+.3f} [{low:+.3f}, {high:+.3f}]; {said}"
    return Gap(train=seen, gold=unseen, difference=difference, low=low, high=high, margin=margin, verdict=verdict, sentence=sentence)
