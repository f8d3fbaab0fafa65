"""Per-row details summed into metrics with n and interval: what every scorer but `label` reports goes through here.

A scorer writes into a row's `detail` one of four things, and `statistic` reads the same, so that what is reported can be paired:

    <name>                        the row's own value: the metric is its mean over the rows
    <name>.part and <name>.whole  the metric is the sum of parts over the sum of wholes (micro average)
    <kind>_<name>.part and .whole  the same of each kind of rows: the metric is the mean of both kinds (`statistic.KINDS`)
    error.<class>                 1 where the row's answer is wrong in this way: the metric is its share of all rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.evidence import ngrams
from planish.evidence.intervals import RESAMPLES, Floats, percentile, resampled, stratified_wilson, wilson
from planish.evidence.statistic import ERROR, Pair, balanced, kinds_of, parts, shares_of
from planish.scores import Metric, Score

Groups = Mapping[str, str]
"""Row id to cluster; a row without one is its own."""


def tally(
    scores: Sequence[Score], names: Sequence[str], *, groups: Groups | None = None, resamples: int = RESAMPLES, seed: int = 0, no_shares: Sequence[str] = ()
) -> dict[str, Metric]:
    """The named metrics, each with its 95 % interval: Wilson's where every row it is about is right or wrong, else the bootstrap; the cluster bootstrap with `groups`.
    Of `no_shares`, a 0 or a 1 is no wrong or right row (nats, for one): always the bootstrap.

    A micro average that no row has anything to say about (its wholes sum to 0) is not measured and left out; in a resample it counts 0.
    `n` is the number of rows the figure is about."""
    found = {name: _balanced(name, scores, kinds, groups, resamples, seed, name not in no_shares) for name in names if (kinds := kinds_of(scores, name))}
    columns = {name: parts(scores, name) for name in names if name not in found}
    columns = {name: pair for name, pair in columns.items() if pair[1].sum() > 0}
    if not columns:
        return found
    stacked = np.stack([column for pair in columns.values() for column in pair], axis=1)

    def everything(weights: NDArray[np.float32]) -> Floats:
        sums = weights @ stacked
        return np.divide(sums[:, 0::2], sums[:, 1::2], out=np.zeros_like(sums[:, 0::2]), where=sums[:, 1::2] > 0)

    values = everything(np.ones((1, len(scores)), np.float32))[0]
    shares = {name for name in columns if groups is None and name not in no_shares}
    plain = {name: name in shares and bool(np.isin(part, (0, 1)).all() and np.isin(whole, (0, 1)).all()) for name, (part, whole) in columns.items()}
    draws = None if all(plain.values()) else resampled(everything, len(scores), groups=clusters(scores, groups), resamples=resamples, seed=seed)
    for place, (name, (part, whole)) in enumerate(columns.items()):
        n = int((whole > 0).sum())
        if plain[name] or draws is None:
            (low, high), how = wilson(round(part.sum()), n), "wilson"
        else:
            (low, high), how = percentile(draws[:, place]), f"{'' if groups is None else 'cluster '}bootstrap {resamples}"
        better = not name.startswith(ERROR)
        found[name] = Metric(name=name, value=float(values[place]), n=n, low=low, high=high, method=how, higher_is_better=better)
    return found


def _balanced(name: str, scores: Sequence[Score], kinds: Sequence[Pair], groups: Groups | None, resamples: int, seed: int, share: bool) -> Metric:
    """A mean of two kinds of rows, with Wilson's interval of each put together where rows are right or wrong, else the bootstrap."""
    of = balanced(kinds)
    strata = shares_of(kinds) if share and groups is None else None
    if strata is not None:
        (low, high), how = stratified_wilson(strata), "wilson of each kind"
    else:
        draws = resampled(of, len(scores), groups=clusters(scores, groups), resamples=resamples, seed=seed)
        (low, high), how = percentile(draws), f"{'' if groups is None else 'cluster '}bootstrap {resamples}"
    return Metric(name=name, value=float(of(np.ones((1, len(scores)), np.float32))[0]), n=len(scores), low=low, high=high, method=how)


def corpus(name: str, scores: Sequence[Score], *, groups: Groups | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Metric:
    """BLEU or chrF of the set, with its (cluster) bootstrap interval."""
    of = ngrams.statistic(name, [score.detail for score in scores])
    low, high = percentile(resampled(of, len(scores), groups=clusters(scores, groups), resamples=resamples, seed=seed))
    how = f"{'' if groups is None else 'cluster '}bootstrap {resamples}"
    return Metric(name=name, value=float(of(np.ones((1, len(scores)), np.float32))[0]), n=len(scores), low=low, high=high, method=how)


def errors_seen(scores: Sequence[Score]) -> list[str]:
    """The error classes that occur, as metric names (`error.<class>`)."""
    return sorted({key for score in scores for key in score.detail if key.startswith(ERROR)})


def clusters(scores: Sequence[Score], groups: Groups | None) -> list[str] | None:
    """One cluster per row for the bootstrap; None where rows are independent."""
    return None if groups is None else [groups.get(score.id, f"\0{score.id}") for score in scores]


def require_references(scorer: str, scores: Sequence[Score]) -> None:
    """Raise InputError without rows, and naming every row whose reference is empty: nothing can be right there (MISSION E1)."""
    if not scores:
        raise InputError(Problem(scorer, "there are no scores", "score at least one row"))
    empty = [score.id for score in scores if not score.target.strip()]
    if empty:
        raise InputError(*(Problem(row, "its reference is empty", "give the right answer, or take the row out of the gold set") for row in empty))
