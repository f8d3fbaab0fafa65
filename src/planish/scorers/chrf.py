"""chrF2: shared character n-grams (1 to 6) with the reference over the whole set, 0 to 100; works for every script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from planish.data.answers import accepted
from planish.evidence.ngrams import CHRF_ORDER, chrf
from planish.evidence.tally import corpus, require_references, tally
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "chrf"


def score(sample: Sample, answer: str | None) -> Score:
    """The counts of the row in `detail` (`evidence.ngrams`), against the reference that gives the best chrF; `value` is that row's chrF over 100.

    Source: Popovic 2015; defaults of sacrebleu (space is not counted, no words, beta 2)."""
    given = answer.strip() if answer is not None else ""
    answered = _grams(given)
    values = []
    for reference in accepted(sample.target):
        counts = _counts(answered, _grams(reference))
        values.append((float(chrf(np.array([counts], dtype=np.float64))[0]), counts))
    best, counts = max(values, key=lambda value: value[0])
    detail = {f"chrf.{place}": float(count) for place, count in enumerate(counts)} | {"parse_rate": float(given != "")}
    return Score(id=sample.id, answer=answer, parsed=given or None, target=sample.target, value=min(1.0, best / 100), detail=detail)


def _grams(text: str) -> list[Counter[str]]:
    line = "".join(text.split())
    return [Counter(line[start : start + n] for start in range(len(line) - n + 1)) for n in range(1, CHRF_ORDER + 1)]


def _counts(answered: list[Counter[str]], asked: list[Counter[str]]) -> list[int]:
    counts = []
    for ours, theirs in zip(answered, asked, strict=True):
        # An order the reference is too short for is not held against the answer.
        counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return counts


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`chrf` of the set (0 to 100, no mean of rows) with its (cluster) bootstrap interval, and `parse_rate`. Raises InputError without rows or references."""
    require_references("chrf", scores)
    figure = corpus("chrf", scores, groups=groups, resamples=resamples, seed=seed)
    return {"chrf": figure} | tally(scores, ("parse_rate",), groups=groups, resamples=resamples, seed=seed)
