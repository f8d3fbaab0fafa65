"""BLEU of the whole set, 0 to 100, counted by sacrebleu (tokenizer 13a): for translation-like answers with references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np

from planish.data.answers import accepted
from planish.evidence.ngrams import BLEU_ORDER, bleu
from planish.evidence.tally import corpus, require_references, tally
from planish.lazy import require
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "bleu"


def score(sample: Sample, answer: str | None, *, tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a", lowercase: bool = False) -> Score:
    """The counts of the row in `detail` (`evidence.ngrams`); `value` is the row's own BLEU over 100, smoothed, which is no figure to report.

    Raises MissingExtra without sacrebleu. Source: Papineni et al. 2002; Post 2018."""
    given = answer.strip() if answer is not None else ""
    found = _counter(tokenize, lowercase).sentence_score(given, list(accepted(sample.target)))
    counts = [found.sys_len, found.ref_len, *found.counts, *found.totals]
    assert len(counts) == 2 + 2 * BLEU_ORDER
    detail = {f"bleu.{place}": float(count) for place, count in enumerate(counts)} | {"parse_rate": float(given != "")}
    value = min(1.0, float(bleu(np.array([counts], dtype=np.float64))[0]) / 100)
    return Score(id=sample.id, answer=answer, parsed=given or None, target=sample.target, value=value, detail=detail)


@cache
def _counter(tokenize: str, lowercase: bool) -> Any:
    sacrebleu = require("sacrebleu.metrics", extra="metrics")
    return sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)  # says only how a row's own score is made, which is not used


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`bleu` of the set (0 to 100, no mean of rows) with its (cluster) bootstrap interval, and `parse_rate`. Raises InputError without rows or references."""
    require_references("bleu", scores)
    figure = corpus("bleu", scores, groups=groups, resamples=resamples, seed=seed)
    return {"bleu": figure} | tally(scores, ("parse_rate",), groups=groups, resamples=resamples, seed=seed)
