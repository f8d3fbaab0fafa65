"""Two systems on the same rows: exact McNemar, the paired (cluster) bootstrap of any metric's difference, Holm for many (MISSION E4).

Unpaired rows are refused: a difference of two means over different rows mixes the systems with the luck of the draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from planish.errors import InputError, Problem
from planish.evidence.intervals import RESAMPLES, Floats, Interval, percentile, resampled, stratified_wilson
from planish.evidence.statistic import declared_labels, detail_name, is_row_mean, kinds_of, measured, row_values, shares_of, split_name, statistic
from planish.scores import Comparison, EvalReport

IDS_SHOWN = 5
FEW_DISCORDANT = 10  # below: the bootstrap has too little to resample, and with none it would call the difference exactly 0


def mcnemar(b: int, c: int, *, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> float:
    """Exact McNemar p-value: b rows only the first system has right, c only the second; "greater" asks whether the first is better.

    Source: McNemar 1947; exact form as statsmodels `mcnemar(exact=True)`."""
    if b < 0 or c < 0:
        raise InputError(Problem("mcnemar", f"discordant counts {b}, {c} are negative", "count rows"))
    return 1.0 if b + c == 0 else float(binomtest(b, b + c, 0.5, alternative=alternative).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values in the order given: each stays comparable with alpha however many metrics are tested.

    Source: Holm 1979, Scand. J. Statist. 6:65."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = running
    return adjusted


def score_interval(b: int, c: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Tango's score interval of the paired difference (b - c) / n of two shares. It keeps its width when nothing differs: 0 of 50
    discordant rows is [-0.071, +0.071], where a bootstrap says [0, 0] and would clear any margin.

    Source: Tango 1998, Statist. Med. 17:891."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def surplus(difference: float) -> float:
        # The standardised distance of (b - c)/n from `difference`, with the nuisance share c/n at its restricted maximum likelihood.
        # `vary` written as -(b+c) + (2n-b+c)·difference is Tango's eq. for the root in q21.
        vary = -b - c + (2 * n - b + c) * difference
        nuisance = (math.sqrt(max(0.0, vary * vary + 8 * n * c * difference * (1 - difference))) - vary) / (4 * n)
        variance = n * (2 * nuisance + difference * (1 - difference))
        return (b - c - n * difference) / math.sqrt(variance) if variance > 1e-12 else math.copysign(math.inf, b - c - n * difference)

    def end(sign: int) -> float:
        inside, outside = (b - c) / n, float(sign)
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(surplus(middle)) <= z:
                inside = middle
            else:
                outside = middle
        return inside

    return Interval(end(-1), end(1))


def aligned(candidate: EvalReport, reference: EvalReport) -> EvalReport:
    """`reference` with its scores in the candidate's row order.

    Raises InputError, every problem at once, on different gold hashes, repeated ids, rows only one side has, or targets that differ."""
    problems = []
    if candidate.gold != reference.gold:
        why = f"{candidate.system} was scored on {candidate.gold[:12]} and {reference.system} on {reference.gold[:12]}"
        problems.append(Problem("gold", why, "score both on one gold set"))
    for report in (candidate, reference):
        if len({score.id for score in report.scores}) < len(report.scores):
            problems.append(Problem(report.system, "a row id occurs twice in its scores", "score each gold row once"))
    by_id = {score.id: score for score in reference.scores}
    ours = {score.id for score in candidate.scores}
    for report, missing in ((reference, sorted(ours - by_id.keys())), (candidate, sorted(by_id.keys() - ours))):
        if missing:
            shown = ", ".join(missing[:IDS_SHOWN]) + (" ..." if len(missing) > IDS_SHOWN else "")
            problems.append(Problem(report.system, f"{len(missing)} rows were not scored: {shown}", "unpaired rows are refused: score them all"))
    changed = [score.id for score in candidate.scores if score.id in by_id and by_id[score.id].target != score.target]
    if changed:
        problems.append(Problem(changed[0], f"the target differs between the two reports in {len(changed)} rows", "score both on one gold set"))
    if problems:
        raise InputError(*problems)
    return reference.model_copy(update={"scores": [by_id[score.id] for score in candidate.scores]})


def row_groups(report: EvalReport, groups: Mapping[str, str] | None) -> list[str] | None:
    """One group per score, or None; a row without a group is a group of its own."""
    return None if groups is None else [groups.get(score.id, f"\0{score.id}") for score in report.scores]


def compare(
    candidate: EvalReport,
    reference: EvalReport,
    metric: str,
    *,
    groups: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """`candidate - reference` of one metric on the same rows, with the paired 95 % interval. `groups` maps a row id to its cluster.

    For right/wrong rows the p-value is exact McNemar; with fewer than 10 discordant rows the interval is the wider of the paired bootstrap and
    Tango's score interval, because a bootstrap of so few is too narrow. So it is where one side has one value on every row (the base's .5 of preference pairs) and the other
    fewer than 10 right rows, or wrong ones: there the wider one is Wilson's, less that value. Raises InputError on unpaired rows or different gold hashes (`aligned`)."""
    candidate, reference = (measured(report, metric) for report in (candidate, aligned(candidate, reference)))
    _refuse_other_tokens(candidate, reference, metric)
    labels = labels or declared_labels(candidate, reference)
    ours, theirs = statistic(candidate, metric, labels=labels), statistic(reference, metric, labels=labels)
    n = len(candidate.scores)
    draws = resampled(lambda weights: ours(weights) - theirs(weights), n, groups=row_groups(candidate, groups), resamples=resamples, seed=seed)
    interval, how = percentile(draws), f"paired {'cluster ' if groups is not None else ''}bootstrap {resamples}"
    b, c, binary = discordant(candidate, reference, metric)
    p_value = min(1.0, 2 * (1 + min(int((draws <= 0).sum()), int((draws >= 0).sum()))) / (resamples + 1))
    if binary and (b + c == 0 or (b + c < FEW_DISCORDANT and is_row_mean(metric, candidate))):
        score = score_interval(b, c, n)
        interval = Interval(min(interval.low, score.low), max(interval.high, score.high))
        how += ", not narrower than Tango's score interval"
    elif (share := _of_one_share(candidate, reference, metric)) is not None:
        interval = Interval(min(interval.low, share.low), max(interval.high, share.high))
        how += ", not narrower than Wilson's interval of the side that varies"
    if binary and is_row_mean(metric, candidate) and groups is None:
        p_value, how = mcnemar(b, c), f"exact McNemar, {how}"
    difference = candidate.metrics[metric].value - reference.metrics[metric].value
    return Comparison(
        metric=metric,
        candidate=candidate.system,
        reference=reference.system,
        difference=difference,
        low=interval.low,
        high=interval.high,
        n=n,
        p_value=p_value,
        test=how,
    )


def _refuse_other_tokens(candidate: EvalReport, reference: EvalReport, metric: str) -> None:
    """Perplexity is per token: over another tokenizer's tokens it is another figure (MISSION T2). Reports aligned."""
    if split_name(metric)[0] != "perplexity":
        return
    other = [ours.id for ours, theirs in zip(candidate.scores, reference.scores, strict=True) if ours.detail.get("tokens") != theirs.detail.get("tokens")]
    if other:
        why = f"{candidate.system} and {reference.system} split {len(other)} rows into different numbers of tokens ({', '.join(other[:IDS_SHOWN])})"
        raise InputError(Problem(metric, why, "their tokenizers differ: compare bits_per_byte"))


def _of_one_share(candidate: EvalReport, reference: EvalReport, metric: str) -> Interval | None:
    """The interval of the difference where one side has one value on every row: Wilson's of the other, less that value. None elsewhere, and with enough to resample."""
    ours, theirs = row_values(candidate, metric), row_values(reference, metric)
    for side, shares, other, sign in ((candidate, ours, theirs, 1), (reference, theirs, ours, -1)):
        strata = _strata(side, metric, shares)
        if strata and (other == other[0]).all() and min(min(right, n - right) for _, right, n in strata) < FEW_DISCORDANT:
            low, high = sorted(sign * (end - float(other[0])) for end in stratified_wilson(strata))
            return Interval(low, high)
    return None


def _strata(report: EvalReport, metric: str, values: Floats) -> list[tuple[float, int, int]] | None:
    """A share as (weight, right, rows), of each kind where the metric has kinds; None where it is no share."""
    if kinds := kinds_of(report.scores, detail_name(report, metric)):
        return shares_of(kinds)
    binary = is_row_mean(metric, report) and bool(np.isin(values, (0.0, 1.0)).all())
    return [(1.0, int((values == 1).sum()), len(values))] if binary else None


def discordant(candidate: EvalReport, reference: EvalReport, metric: str) -> tuple[int, int, bool]:
    """Rows where only the candidate is better, rows where only the reference is, and whether every row is plainly right or wrong. Reports aligned."""
    ours, theirs = row_values(candidate, metric), row_values(reference, metric)
    binary = bool(np.isin(ours, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all())
    return int((ours > theirs).sum()), int((ours < theirs).sum()), binary
