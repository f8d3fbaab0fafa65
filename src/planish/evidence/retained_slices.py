"""How much of the teacher the student kept in each part of the gold set: by label, length, group, language and column (MISSION S5, E7).

A mean hides a part that was lost. Many slices are many tests: a slice is called short when Holm's correction over every slice tested leaves p < .05 that it keeps
the target. Slices of fewer than 20 rows are shown and not tested; where the teacher scores 0 nothing can be kept, and that is said: it is not 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from planish.errors import InputError
from planish.evidence.intervals import RESAMPLES
from planish.evidence.paired import aligned, holm
from planish.evidence.retained import Kept, kept
from planish.evidence.slices import ALPHA, MINIMUM_SUPPORT, Cuts, members
from planish.evidence.statistic import CONFUSION, declared_labels, is_row_mean, split_name, statistic
from planish.rows import Noun
from planish.scores import EvalReport, Metric

MEAN = "mean score"
"""What stands for a metric that has no meaning inside a slice: macro-F1 of the rows of one label is over the labels that are not there."""


class SliceKept(Noun):
    """`student` and `teacher` are the metric on the slice's `n` rows; `retained` their ratio with its paired interval, None where `undefined` says why. `thin` marks
    fewer than 20 rows; `short` a slice that is proven to keep less than the target."""

    key: str
    value: str
    n: int
    student: float
    teacher: float
    retained: Metric | None
    undefined: str = ""
    thin: bool = False
    p_value: float | None = None  # one-sided, that it keeps the target; None where it is thin or undefined
    p_holm: float | None = None
    short: bool = False

    @property
    def said(self) -> str:
        """`language=de 0.712 [0.655, 0.764] (n=120)`."""
        return f"{self.key}={self.value} {self.retained if self.retained is not None else f'undefined (n={self.n})'}"


class KeptBySlice(Noun):
    """Every slice, the proven short first, then by what it kept, thin and undefined ones last. `left_out` says which keys gave none, and why."""

    metric: str
    target: float
    slices: tuple[SliceKept, ...]
    tested: int
    left_out: dict[str, str] = {}

    @property
    def short(self) -> tuple[SliceKept, ...]:
        """Those that are proven to keep less than the target."""
        return tuple(one for one in self.slices if one.short)


def retained_by_slice(
    student: EvalReport,
    teacher: EvalReport,
    metric: str,
    cuts: Cuts,
    *,
    target: float,
    keys: Sequence[str] | None = None,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
) -> KeptBySlice:
    """quality_retained on the rows of each value of every key (`keys`: of these), by the metric itself, or by the mean score where it is over labels.

    Keys are left out, and refused, as in `slices.by_slice`. Raises InputError on different gold hashes or rows, or a metric that one side lacks."""
    teacher = aligned(student, teacher)
    labels = declared_labels(student, teacher)
    for report in (student, teacher):
        statistic(report, metric, labels=labels)  # refuses a metric that is not measured, or is not what its rows say
    inside = metric if not _over_labels(student, metric) else MEAN
    better = student.metrics[metric].higher_is_better
    places, left_out = members(student, cuts, keys)
    found, tests = [], []
    for (key, value), rows in places.items():
        ours, theirs = (_part(report, inside, better, rows, labels) for report in (student, teacher))
        thin = len(rows) < MINIMUM_SUPPORT
        one = SliceKept(key=key, value=value, n=len(rows), student=ours.metrics[inside].value, teacher=theirs.metrics[inside].value, retained=None, thin=thin)
        try:
            seen = kept(ours, theirs, inside, groups=groups, resamples=resamples)
        except InputError as refused:
            found.append(one.model_copy(update={"undefined": refused.problems[0].why}))
            continue
        if not thin:
            tests.append((len(found), _chance(seen, target)))
        found.append(one.model_copy(update={"retained": seen.metric}))
    for (place, p_value), p_holm in zip(tests, holm([p_value for _, p_value in tests]), strict=True):
        found[place] = found[place].model_copy(update={"p_value": p_value, "p_holm": p_holm, "short": p_holm < ALPHA})
    found.sort(key=lambda one: (one.retained is None, one.thin, not one.short, one.retained.value if one.retained else 0.0, one.key, one.value))
    return KeptBySlice(metric=inside, target=target, slices=tuple(found), tested=len(tests), left_out=left_out)


def _over_labels(report: EvalReport, metric: str) -> bool:
    return split_name(metric)[0] in CONFUSION and not is_row_mean(metric, report)


def _part(report: EvalReport, metric: str, better: bool, rows: Sequence[int], labels: Sequence[str]) -> EvalReport:
    """The report on these rows, with the one metric as they give it."""
    scores = [report.scores[row] for row in rows]
    # measured on the part's own rows: the weight of every other row is 0, and a mean score is a name that no row's details hold
    whole = report.model_copy(update={"metrics": {MEAN: _bare(MEAN, float(np.mean([score.value for score in report.scores])))} | report.metrics})
    weights = np.zeros((1, len(report.scores)), np.float32)
    weights[0, list(rows)] = 1
    value = float(statistic(whole, metric, labels=labels)(weights)[0])
    return report.model_copy(update={"scores": scores, "metrics": {metric: _bare(metric, value, better or metric == MEAN)}})


def _bare(name: str, value: float, better: bool = True) -> Metric:
    return Metric(name=name, value=value, n=0, higher_is_better=better)


def _chance(seen: Kept, target: float) -> float:
    """One-sided bootstrap p that the slice keeps the target."""
    return float((1 + (seen.draws >= target).sum()) / (len(seen.draws) + 1))
