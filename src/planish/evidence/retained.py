"""How much of the teacher the student kept (MISSION S5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.intervals import RESAMPLES, Floats, percentile, resampled
from planish.evidence.paired import FEW_DISCORDANT, aligned, discordant, row_groups, score_interval
from planish.evidence.statistic import declared_labels, is_row_mean, statistic
from planish.scores import EvalReport, Metric


class Kept(NamedTuple):
    """The figure, and what it is in every resample (_R,)."""

    metric: Metric
    draws: Floats


def quality_retained(
    student: EvalReport, teacher: EvalReport, metric: str, *, groups: Mapping[str, str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Metric:
    """student / teacher where higher is better, teacher / student where lower is (perplexity), with the paired bootstrap 95 % interval. Where few right/wrong rows differ
    the bounds are not nearer than those of Tango's score interval of the difference, as in `compare`: two models that answer alike on 60 rows prove no 99 %.

    Raises InputError on different gold hashes or rows, and where the denominator is 0 or so near it that the ratio is undefined: that is not 1."""
    return kept(student, teacher, metric, groups=groups, resamples=resamples, seed=seed).metric


def kept(student: EvalReport, teacher: EvalReport, metric: str, *, groups: Mapping[str, str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Kept:
    """`quality_retained` with its resamples, for a test on them. Raises InputError as it does."""
    teacher = aligned(student, teacher)
    labels = declared_labels(student, teacher)
    top, bottom = statistic(student, metric, labels=labels), statistic(teacher, metric, labels=labels)
    numerator, denominator = student.metrics[metric], teacher.metrics[metric]
    owner = teacher.system
    if not numerator.higher_is_better:
        top, bottom, numerator, denominator, owner = bottom, top, denominator, numerator, student.system
    if denominator.value == 0:
        raise InputError(Problem("quality_retained", f"{metric} of {owner} is 0, so the ratio is undefined", "choose a metric on which it scores"))
    n = len(student.scores)
    draws = resampled(lambda weights: np.stack([top(weights), bottom(weights)], axis=1), n, groups=row_groups(student, groups), resamples=resamples, seed=seed)
    defined = draws[draws[:, 1] != 0]
    if len(defined) < 0.999 * len(draws):
        why = f"{metric} of {owner} is 0 in {1 - len(defined) / len(draws):.1%} of the resamples, so the ratio has no interval"
        raise InputError(Problem("quality_retained", why, "score more gold rows"))
    ratios = defined[:, 0] / defined[:, 1]
    (low, high), (lower, upper) = percentile(ratios), percentile(ratios, confidence=0.90)
    value = numerator.value / denominator.value
    how = f"paired {'cluster ' if groups is not None else ''}bootstrap {resamples} of {metric}"
    b, c, binary = discordant(student, teacher, metric)
    if student.metrics[metric].higher_is_better and binary and (b + c == 0 or (b + c < FEW_DISCORDANT and is_row_mean(metric, student))):
        (least, most), (above, below) = (score_interval(b, c, n, confidence=confidence) for confidence in (0.95, 0.90))
        low, high = min(low, 1 + least / denominator.value), max(high, 1 + most / denominator.value)
        lower, upper = min(lower, 1 + above / denominator.value), max(upper, 1 + below / denominator.value)
        how += ", not narrower than Tango's score interval"
    return Kept(Metric(name="quality_retained", value=value, n=n, low=low, high=high, lower=lower, upper=upper, method=how), ratios)
