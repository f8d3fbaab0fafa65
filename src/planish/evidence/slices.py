"""Where the model loses: the worst slices first, the rows a baseline had right, the commonest confusions (MISSION E7)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.intervals import bootstrap, wilson
from planish.evidence.paired import aligned
from planish.evidence.statistic import mean
from planish.rows import Noun, Sample
from planish.scores import EvalReport, Metric

MINIMUM_SUPPORT = 20  # below: shown in grey, its interval says little


class Slice(Noun):
    """The mean score (0..1) over one slice's rows. `thin` marks fewer than 20 rows."""

    key: str
    value: str
    metric: Metric
    thin: bool


class Loss(Noun):
    """A row the baseline had right and the model has wrong."""

    id: str
    target: str
    answer: str | None
    baseline_answer: str | None


def by_slice(report: EvalReport, samples: Sequence[Sample], key: str) -> list[Slice]:
    """The report's mean score per value of a slice key, worst first, thin slices last. Many slices are many tests: judge p-values with `paired.holm`.

    Raises InputError naming the rows that lack the key, or that are no sample of this gold set."""
    slices = {sample.id: sample.slices.get(key) for sample in samples}
    missing = [score.id for score in report.scores if slices.get(score.id) is None]
    if missing:
        known = sorted({name for sample in samples for name in sample.slices})
        why = f"{len(missing)} scored rows have no slice of this name, the first {missing[0]}"
        raise InputError(Problem(f'slice "{key}"', why, "known: " + ", ".join(known) if known else "give the gold rows slices"))
    values: dict[str, list[float]] = defaultdict(list)
    for score in report.scores:
        values[str(slices[score.id])].append(score.value)
    found = [Slice(key=key, value=name, metric=_mean(f"{key}={name}", scores), thin=len(scores) < MINIMUM_SUPPORT) for name, scores in values.items()]
    return sorted(found, key=lambda slice_: (slice_.thin, slice_.metric.value, slice_.value))


def losses(candidate: EvalReport, baseline: EvalReport) -> list[Loss]:
    """Rows the baseline answered better than the candidate, in gold order. Raises InputError on unpaired reports."""
    pairs = zip(candidate.scores, aligned(candidate, baseline).scores, strict=True)
    return [Loss(id=ours.id, target=ours.target, answer=ours.answer, baseline_answer=theirs.answer) for ours, theirs in pairs if theirs.value > ours.value]


def confusions(report: EvalReport, *, top: int = 10) -> list[tuple[str, str | None, int]]:
    """The commonest wrong readings: (target, what was read or None, rows), most frequent first."""
    wrong = Counter((score.target, score.parsed) for score in report.scores if score.value < 1)
    ranked = sorted(wrong.items(), key=lambda entry: (-entry[1], entry[0][0], entry[0][1] or ""))
    return [(target, read, rows) for (target, read), rows in ranked[:top]]


def _mean(name: str, scores: list[float]) -> Metric:
    n, value = len(scores), float(np.mean(scores))
    if set(scores) <= {0.0, 1.0}:
        low, high = wilson(sum(scores), n)
        return Metric(name=name, value=value, n=n, low=low, high=high, method="wilson")
    low, high = bootstrap(mean(np.array(scores)), n)
    return Metric(name=name, value=value, n=n, low=low, high=high, method="bootstrap 10000")
