"""Where a system is weak: its mean score by label, length, group, language and column, the proven weak spots first (MISSION E7).

Many slices are many tests: a slice is called weak when Holm's correction over every slice tested leaves p < .05 that it scores no worse than all other rows.
Slices of fewer than 20 rows are shown in grey and not tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom  # type: ignore[import-untyped]

from planish.errors import InputError, Problem
from planish.evidence.intervals import RESAMPLES, Floats, resampled, wilson
from planish.evidence.paired import holm
from planish.evidence.statistic import is_row_mean, mean, row_values
from planish.rows import Noun, Sample
from planish.scores import EvalReport, Metric

MINIMUM_SUPPORT = 20  # below: shown in grey, its interval says little
ALPHA = 0.05
MANY = 200  # a key with more values is a name, not a slice

Cuts = Mapping[str, Mapping[str, str]]
"""Slice key to row id to value: `{"language": {"r1": "en"}}`."""


class Slice(Noun):
    """The mean score (0..1) over one slice's rows, and over all others. `thin` marks fewer than 20 rows; `weak` a slice that is proven worse than the others."""

    key: str
    value: str
    metric: Metric
    others: float | None
    thin: bool
    p_value: float | None = None  # one-sided, that it is no worse than the others; None where it is thin or alone
    p_holm: float | None = None
    weak: bool = False


class Slices(Noun):
    """Every slice of one system, the worst first. `left_out` says which keys gave none, and why."""

    system: str
    overall: Metric
    slices: tuple[Slice, ...]
    tested: int
    left_out: dict[str, str] = {}

    @property
    def worst(self) -> Slice | None:
        """The first with support: proven weak where any is."""
        return next((one for one in self.slices if not one.thin), None)


def cuts_of(samples: Sequence[Sample], texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """The cuts a gold set brings along: its named slices, `group`, `length` (quarters of the texts by words), and `label` where targets repeat."""
    found: dict[str, dict[str, str]] = {}
    for sample in samples:
        for key, value in sample.slices.items():
            found.setdefault(key, {})[sample.id] = value
        if sample.group is not None:
            found.setdefault("group", {})[sample.id] = sample.group
    targets = Counter(sample.target for sample in samples)
    if len(targets) <= MANY and len(targets) < len(samples):
        found["label"] = {sample.id: sample.target for sample in samples}
    return found | {"length": lengths({sample.id: text for sample, text in zip(samples, texts, strict=True)})}


def lengths(texts: Mapping[str, str]) -> dict[str, str]:
    """Row id to its quarter by number of words, named by its ends: "5-9 words". Equal lengths stay together, so quarters may be uneven or fewer than four."""
    if not texts:
        return {}
    words = np.array([len(text.split()) for text in texts.values()])
    edges = np.unique(np.quantile(words, [0.25, 0.5, 0.75], method="lower"))
    quarter = np.searchsorted(edges, words, side="left")
    names = {int(q): f"{words[quarter == q].min()}-{words[quarter == q].max()} words" for q in np.unique(quarter)}
    return {row: names[int(q)] for row, q in zip(texts, quarter, strict=True)}


def by_slice(
    report: EvalReport, cuts: Cuts, keys: Sequence[str] | None = None, *, groups: Mapping[str, str] | None = None, resamples: int = RESAMPLES
) -> Slices:
    """The report's mean score per value of every key (`keys`: of these): the proven weak first, then by score, thin ones last.

    Intervals are Wilson's and p-values Fisher's exact where rows are right or wrong and independent, else of the (cluster) bootstrap. Without `keys`, a key with one
    value or more than 200, or with no value of 20 rows, is left out and named. Raises InputError on a key nobody has, or that a scored row lacks."""
    places, left_out = members(report, cuts, keys)
    values = np.array([score.value for score in report.scores])
    inside = np.zeros((len(values), 1 + len(places)))
    inside[:, 0] = 1  # the whole, measured like its parts
    for column, rows in enumerate(places.values(), start=1):
        inside[rows, column] = 1
    support = inside.sum(axis=0)
    clusters = None if groups is None else [groups.get(score.id, f"\0{score.id}") for score in report.scores]
    plain = clusters is None and bool(np.isin(values, (0, 1)).all())
    measured = _exact(values, inside) if plain else _drawn(values, inside, clusters, resamples)
    how = "wilson" if plain else f"{'' if clusters is None else 'cluster '}bootstrap {resamples}"
    tested = [column for column in range(1, len(support)) if MINIMUM_SUPPORT <= support[column] < len(values)]
    adjusted = dict(zip(tested, holm([measured[column][2] for column in tested]), strict=True))

    def metric(name: str, column: int) -> Metric:
        low, high, _ = measured[column]
        return Metric(name=name, value=float(values[inside[:, column] == 1].mean()), n=int(support[column]), low=low, high=high, method=how)

    slices = [
        Slice(
            key=key,
            value=value,
            metric=metric(f"{key}={value}", column),
            others=float(values[inside[:, column] == 0].mean()) if support[column] < len(values) else None,
            thin=bool(support[column] < MINIMUM_SUPPORT),
            p_value=measured[column][2] if column in adjusted else None,
            p_holm=adjusted.get(column),
            weak=adjusted.get(column, 1.0) < ALPHA,
        )
        for column, (key, value) in enumerate(places, start=1)
    ]
    slices.sort(key=lambda one: (one.thin, not one.weak, one.metric.value, one.key, one.value))
    return Slices(system=report.system, overall=metric("mean", 0), slices=tuple(slices), tested=len(tested), left_out=left_out)


def members(report: EvalReport, cuts: Cuts, keys: Sequence[str] | None = None) -> tuple[dict[tuple[str, str], list[int]], dict[str, str]]:
    """(key, value) of every slice to the places of its rows in the report, and the keys that were left out with the reason; raises InputError as `by_slice` says."""
    if not report.scores:
        raise InputError(Problem("slices", f"the report of {report.system} holds no rows", "score at least one row"))
    left_out: dict[str, str] = {}
    if keys is None:
        left_out = {key: why for key, cut in cuts.items() if (why := _useless([cut.get(score.id) for score in report.scores]))}
        keys = [key for key in cuts if key not in left_out]
    _refuse(report, cuts, keys)
    places: dict[tuple[str, str], list[int]] = {}
    for key in keys:
        for place, score in enumerate(report.scores):
            places.setdefault((key, cuts[key][score.id]), []).append(place)
    return places, left_out


def worst(report: EvalReport, metric: str, cut: Mapping[str, str], *, groups: Mapping[str, str] | None = None, resamples: int = RESAMPLES) -> Metric | None:
    """The metric on the slice where it is worst, among those of at least 20 rows; None where the report lacks it, or it is no mean over rows.

    Its one-sided bounds are about every such slice: `lower` is the least lower bound of all (that each slice is above a bar needs no correction: all must be),
    `upper` the least upper bound at Bonferroni's 5 % / slices (that one of them is below; Holm's first step). Mirrored where lower is better.
    The value is NaN, and a rule over it fails, where no slice has 20 rows or a row is in none; `method` says so."""
    if metric not in report.metrics or not is_row_mean(metric, report):
        return None
    sign = 1 if report.metrics[metric].higher_is_better else -1
    lacking = sum(score.id not in cut for score in report.scores)
    if lacking:
        return Metric(name=metric, value=float("nan"), n=0, method=f"{lacking} rows are in no slice of this key", higher_is_better=sign > 0)
    values = sign * row_values(report, metric)
    clusters = None if groups is None else [groups.get(score.id, f"\0{score.id}") for score in report.scores]
    names = np.array([cut[score.id] for score in report.scores])
    supported = [name for name, rows in Counter(names.tolist()).items() if rows >= MINIMUM_SUPPORT]
    if not supported:
        return Metric(name=metric, value=float("nan"), n=0, method=f"no slice has {MINIMUM_SUPPORT} rows", higher_is_better=sign > 0)
    found = []
    for name in supported:
        own = np.flatnonzero(names == name)
        ends = _bounds(values[own], None if clusters is None else [clusters[place] for place in own], sign, len(supported), resamples)
        found.append((float(values[own].mean()), name, len(own), *ends))
    value, name, n, lower, upper = min(found)
    lower, upper = min(one[3] for one in found), min(one[4] for one in found)
    low, high = sorted((sign * lower, sign * upper))
    said = f"worst of {len(supported)} slices: {name}"
    return Metric(name=metric, value=sign * value, n=n, low=low, high=high, lower=low, upper=high, method=said, higher_is_better=sign > 0)


def _bounds(values: Floats, clusters: Sequence[str] | None, sign: int, slices: int, resamples: int) -> tuple[float, float]:
    """One-sided bounds of a mean: lower at 95 %, upper at 1 - 5 % / slices."""
    if clusters is None and bool(np.isin(sign * values, (0, 1)).all()):
        right, n = float(sign * values.sum()), len(values)
        near, far = wilson(right, n, confidence=1 - 2 * ALPHA), wilson(right, n, confidence=1 - 2 * ALPHA / slices)
        return (near.low, far.high) if sign > 0 else (-near.high, -far.low)
    draws = resampled(mean(values), len(values), groups=clusters, resamples=resamples)
    low, high = np.quantile(draws, [ALPHA, 1 - ALPHA / slices])
    return float(low), float(high)


def _useless(values: Sequence[str | None]) -> str:
    """Why a key gives no slices, or nothing."""
    missing = sum(value is None for value in values)
    counts = Counter(values)
    if missing:
        return f"{missing} rows have none"
    if len(counts) < 2:
        return "all rows have one value"
    if max(counts.values()) < MINIMUM_SUPPORT:
        return f"no value has {MINIMUM_SUPPORT} rows"
    return f"{len(counts)} values: a name, not a slice" if len(counts) > MANY else ""


def _refuse(report: EvalReport, cuts: Cuts, keys: Sequence[str]) -> None:
    problems = []
    for key in keys:
        lacking = [score.id for score in report.scores if score.id not in cuts.get(key, {})]
        if lacking:
            why = f"{len(lacking)} scored rows have no slice of this name, the first {lacking[0]}"
            problems.append(Problem(f'slice "{key}"', why, "known: " + ", ".join(cuts) if cuts else "give the gold rows slices"))
    if problems:
        raise InputError(*problems)


def _exact(values: Floats, inside: Floats) -> list[tuple[float, float, float]]:
    """Wilson's interval of each column, and Fisher's exact one-sided p that its rows are no worse than the others."""
    n, right = inside.sum(axis=0), values @ inside
    p = hypergeom.cdf(right, len(values), values.sum(), n)
    return [(*wilson(round(one), int(size)), float(chance)) for one, size, chance in zip(right, n, p, strict=True)]


def _drawn(values: Floats, inside: Floats, clusters: Sequence[str] | None, resamples: int) -> list[tuple[float, float, float]]:
    """The same by the bootstrap, whole clusters at once; a resample without a row of the slice says nothing about it."""
    columns = np.concatenate([inside * values[:, None], inside], axis=1)
    whole = np.stack([values, np.ones(len(values))], axis=1)

    def of(weights: NDArray[np.float32]) -> Floats:
        (own, n), (total, rows) = np.split(weights @ columns, 2, axis=1), np.split(weights @ whole, 2, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.concatenate([own / n, own / n - (total - own) / (rows - n)], axis=1)

    means, differences = np.split(resampled(of, len(values), groups=clusters, resamples=resamples), 2, axis=1)
    ends = np.nanquantile(means, [0.025, 0.975], axis=0)
    p = (1 + resamples - (differences < 0).sum(axis=0)) / (resamples + 1)
    return [(float(low), float(high), float(chance)) for low, high, chance in zip(*ends, p, strict=True)]
