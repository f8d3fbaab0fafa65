"""Held-out preference accuracy: how often the better answer of a pair gains more on the base model than the worse one, or has the higher reward of a reward model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from planish.errors import InputError, Problem
from planish.evidence.tally import require_references, tally
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "accuracy"

READS = "pair_log_probabilities"
"""What `score` is given in place of a text: ln p of the better and of the worse answer, then the same of the base model asked the plain question; of a reward model the
rewards of both."""


def score(sample: Sample, answer: Sequence[float] | None) -> Score:
    """`answer`: (ln p better, ln p worse, base's ln p better, base's ln p worse), each summed over the answer's tokens.

    `value` is 1 where the implicit reward puts the better answer first, ln p - ln p_base of it above that of the worse; 0.5 on a tie, which is what the base itself has on
    every row. `detail` also has whether the better answer is simply the likelier text, and `margin`, the difference of the two rewards over beta, in nats.

    Of a reward model (reward of the better answer, of the worse): `margin` is their difference, `probability` its sigmoid (MISSION P4), and `longer` by how many words the
    better answer is the longer one.

    Raises InputError for a text, a row that is no pair, and log-probabilities that are missing, above 0 or no numbers. Source: Rafailov et al. 2023, arXiv 2305.18290.
    """
    if sample.pair is None:
        raise InputError(Problem(sample.id, "is no pair of a better and a worse answer", "score it with judge, or give rows with chosen and rejected"))
    if isinstance(answer, Sequence) and not isinstance(answer, str) and len(answer) == 2:
        return _rated(sample, *answer)
    if isinstance(answer, str) or not answer or len(answer) != 4 or not all(one <= 0 and math.isfinite(one) for one in answer):
        why = "needs four log-probabilities: of both answers, under the model and under its base"
        raise InputError(Problem(sample.id, why, "score the pair with an engine that gives log-probabilities"))
    better, worse, base_better, base_worse = answer
    margin = (better - base_better) - (worse - base_worse)
    value = _first(margin)
    detail = {"accuracy": value, "likelihood_accuracy": _first(better - worse), "margin": margin}
    return Score(id=sample.id, answer=None, parsed=None, target=sample.target, value=value, detail=detail)


def _rated(sample: Sample, better: float, worse: float) -> Score:
    """Of a reward model's pair."""
    assert sample.pair is not None  # looked at by the caller
    if not (math.isfinite(better) and math.isfinite(worse)):
        raise InputError(Problem(sample.id, f"its rewards are {better} and {worse}", "train the reward model again, in fp32 or at a lower rate"))
    margin, (long, short) = better - worse, (len(" ".join(turn.content for turn in turns).split()) for turns in sample.pair)
    detail = {"accuracy": _first(margin), "margin": margin, "probability": 0.5 + 0.5 * math.tanh(margin / 2), "longer": float(long - short)}
    return Score(id=sample.id, answer=None, parsed=None, target=sample.target, value=detail["accuracy"], detail=detail)


def _first(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`accuracy` by the implicit reward, chance and base .5, `likelihood_accuracy` by the likelihood alone, and the mean `margin` in nats, of the base 0. A reward model has no
    likelihood.

    Raises InputError without rows and on empty references."""
    require_references("pair_accuracy", scores)
    names = ("accuracy", "margin") if any("probability" in score.detail for score in scores) else ("accuracy", "likelihood_accuracy", "margin")
    return tally(scores, names, groups=groups, resamples=resamples, seed=seed)
