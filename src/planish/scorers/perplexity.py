"""Perplexity and bits per byte of the reference under the model: how expected the right text was, not how good an answer is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.evidence.intervals import percentile, resampled
from planish.evidence.statistic import ratio
from planish.evidence.tally import clusters, require_references
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "bits_per_byte"
"""Perplexity cannot rank systems whose tokenizers differ; bits per byte can."""

READS = "log_probabilities"
"""What `score` is given in place of a text: the log-probability of each token of the target, natural logarithm."""


def score(sample: Sample, answer: Sequence[float] | None) -> Score:
    """`answer` (_T,): ln p of every scored token of the target given all before it, the end-of-turn token with them where the system is asked for it.

    `detail` holds the row's nll (nats), tokens, bits and bytes (of the target in UTF-8); `value` is the mean probability, exp(-nll / tokens).

    Raises InputError for a text, for no log-probabilities, and for one that is above 0 or no number: a row without them has no perplexity, and none is made up."""
    if isinstance(answer, str):
        raise InputError(Problem(sample.id, "perplexity reads log-probabilities, not an answer", "ask the engine for those of the reference"))
    if not answer or not all(isinstance(one, float | int) and one <= 0 and math.isfinite(one) for one in answer):
        why = "there are no log-probabilities of its reference" if not answer else "a log-probability is above 0 or not finite"
        raise InputError(Problem(sample.id, why, "score the reference with an engine that gives log-probabilities"))
    nll = -math.fsum(answer)
    size = len(sample.target.encode())
    detail = {"nll": nll, "tokens": float(len(answer)), "bits_per_byte.part": nll / math.log(2), "bits_per_byte.whole": float(size)}
    return Score(id=sample.id, answer=None, parsed=None, target=sample.target, value=math.exp(-nll / len(answer)), detail=detail)


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`perplexity`, exp(sum of nll / sum of tokens), and `bits_per_byte`, both over the set with (cluster) bootstrap intervals; lower is better.

    Raises InputError without rows and on empty references."""
    require_references("perplexity", scores)

    def column(name: str) -> NDArray[np.float64]:
        return np.array([found.detail[name] for found in scores])

    how = f"{'' if groups is None else 'cluster '}bootstrap {resamples}"
    found = {}
    for name, part, whole in (("perplexity", "nll", "tokens"), ("bits_per_byte", "bits_per_byte.part", "bits_per_byte.whole")):
        share = ratio(column(part), column(whole))
        draws = resampled(share, len(scores), groups=clusters(scores, groups), resamples=resamples, seed=seed)
        ends = [float(share(np.ones((1, len(scores)), np.float32))[0]), *percentile(draws)]
        value, low, high = map(math.exp, ends) if name == "perplexity" else ends
        found[name] = Metric(name=name, value=value, n=len(scores), low=low, high=high, method=how, higher_is_better=False)
    return found
