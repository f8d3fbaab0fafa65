"""Strict label match: accuracy, macro, micro and per-class F1, parse rate; an answer that is no label counts as wrong.

An answer is read whole: surrounding space, quotes and sentence punctuation are set aside, case is folded, and then it is the label or it is not.
A label inside a longer answer is never found: "not positive" holds "positive" (MISSION E1, R-3)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.evidence.intervals import Floats, percentile, resampled, wilson
from planish.evidence.statistic import confusion as row_confusion
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "macro_f1"
"""The metric by which systems are ranked: it does not let a large class hide a small one."""

SURROUNDING = " \t\r\n.,;:!?\"'`*()[]{}<>“”‘’«»…。！？"


def score(sample: Sample, answer: str | None, *, case_sensitive: bool = False) -> Score:
    """1 when the whole answer is the sample's target, else 0. `parsed` is the target when it matches, else the answer as it was read, None when empty."""
    exact = "" if answer is None else unicodedata.normalize("NFC", answer).strip()
    target = unicodedata.normalize("NFC", sample.target).strip()
    right = exact == target or (exact != "" and _fold(exact, case_sensitive) == _fold(target, case_sensitive))
    parsed = sample.target if right else exact.strip(SURROUNDING) or exact or None
    return Score(id=sample.id, answer=answer, parsed=parsed, target=sample.target, value=float(right))


def _fold(text: str, case_sensitive: bool) -> str:
    bare = text.strip(SURROUNDING) or text
    return bare if case_sensitive else bare.casefold()


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """accuracy, macro_f1, micro_f1, parse_rate and `f1.<label>` over the declared labels, each with its 95 % interval.

    F1 is scikit-learn's `f1_score(labels=labels, zero_division=0)`. Shares take Wilson's interval; F1, and every figure when `groups` (row id to
    cluster) is given, takes the (cluster) bootstrap. Raises InputError without rows, on a target that is no declared label, and where two labels
    read the same once case is folded and one was given for the other."""
    if not scores:
        raise InputError(Problem("label", "there are no scores", "score at least one row"))
    _refuse_twins(scores, labels)
    table = row_confusion(scores, labels)
    right = np.array([score.value for score in scores])
    parsed = (table.answer >= 0).astype(np.float64)
    per_label, micro = table.f1(), table.micro_f1()

    def everything(weights: NDArray[np.float32]) -> Floats:
        f1 = per_label(weights)
        shares = weights @ np.stack([right, parsed], axis=1) / weights.sum(axis=1, keepdims=True)
        return np.concatenate([shares, f1.mean(axis=1, keepdims=True), micro(weights)[:, None], f1], axis=1)

    n = len(scores)
    clusters = None if groups is None else [groups.get(score.id, f"\0{score.id}") for score in scores]
    names = ["accuracy", "parse_rate", "macro_f1", "micro_f1", *(f"f1.{label}" for label in labels)]
    values = everything(np.ones((1, n), np.float32))[0]
    draws = resampled(everything, n, groups=clusters, resamples=resamples, seed=seed)
    found = {}
    for column, name in enumerate(names):
        value = float(values[column])
        if clusters is None and column < 2:
            (low, high), how = wilson(round(value * n), n), "wilson"
        else:
            (low, high), how = percentile(draws[:, column]), f"{'' if clusters is None else 'cluster '}bootstrap {resamples}"
        found[name] = Metric(name=name, value=value, n=n, low=low, high=high, method=how)
    return found


def confusion(scores: Sequence[Score], labels: Sequence[str]) -> NDArray[np.int64]:
    """Counts (L, L + 1): row is the target, column the answer, both in the order of `labels`; the last column counts answers that are no label."""
    table = row_confusion(scores, labels)
    counts = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    np.add.at(counts, (table.target, table.answer), 1)  # -1, no label, is the last column
    return counts


def _refuse_twins(scores: Sequence[Score], labels: Sequence[str]) -> None:
    """`score` sees one target at a time and cannot know that "US" is another label than "us"; here all labels are known."""
    declared = set(labels)
    twins = [found for found in scores if found.value == 1 and (found.answer or "").strip() in declared - {found.target}]
    if twins:
        fix = "score with case_sensitive: true, or rename one of the labels"
        raise InputError(*(Problem(twin.id, f'label "{(twin.answer or "").strip()}" was taken for "{twin.target}"', fix) for twin in twins))
