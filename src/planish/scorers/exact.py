"""Exact match after SQuAD's normalisation (case, punctuation, articles, space), against any of the accepted answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planish.data.answers import accepted, plain, require_plain
from planish.evidence.tally import require_references, tally
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "exact"


def score(sample: Sample, answer: str | None) -> Score:
    """1 when the answer is one of the accepted answers (the target, or the texts of a target that is a JSON list), else 0. No answer is never right.

    References that normalise to nothing ("The") are passed over; `metrics` refuses a row that has no other."""
    given = answer.strip() if answer is not None else ""
    known = {plain(text) for text in accepted(sample.target)} - {""}
    right = given != "" and plain(given) in known
    return Score(
        id=sample.id,
        answer=answer,
        parsed=given or None,
        target=sample.target,
        value=float(right),
        detail={"exact": float(right), "parse_rate": float(given != "")},
    )


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`exact`, and `parse_rate`, the share of rows with an answer. Raises InputError without rows and naming every row whose references are empty."""
    require_references("exact", scores)
    require_plain(scores)
    return tally(scores, ("exact", "parse_rate"), groups=groups, resamples=resamples, seed=seed)
