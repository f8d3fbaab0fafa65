"""Held-out preference accuracy: how often the better answer gains more on the base model than the worse one, or has the higher reward; a judged one gains if good, loses if bad."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from planish.errors import InputError, Problem
from planish.evidence.statistic import KINDS, kinds_of
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

    Of one answer that was judged good or bad (ln p of it, base's ln p of it): right where a good one gains on the base and a bad one loses (Ethayarajh et al. 2024,
    arXiv 2402.01306); the margin is the gain, of a bad one the loss. Good and bad answers count alike, however many there are of each: a model that makes all answers less
    likely is right on every bad one and has an `accuracy` of .5, as the base has.

    Raises InputError for a text, a row that is neither, and log-probabilities that are missing, above 0 or no numbers. Source: Rafailov et al. 2023, arXiv 2305.18290.
    """
    if sample.pair is None and sample.judged is None:
        why, fix = (
            "is no pair of a better and a worse answer, nor one that was judged",
            "score it with judge, or give rows with chosen and rejected, or with label",
        )
        raise InputError(Problem(sample.id, why, fix))
    if sample.pair is not None and isinstance(answer, Sequence) and not isinstance(answer, str) and len(answer) == 2:
        return _rated(sample, *answer)
    needed = 4 if sample.pair is not None else 2
    if isinstance(answer, str) or not answer or len(answer) != needed or not all(one <= 0 and math.isfinite(one) for one in answer):
        why = "needs log-probabilities of both answers, or of the judged one, under the model and under its base"
        raise InputError(Problem(sample.id, why, "score it with an engine that gives log-probabilities; a reward model rates pairs"))
    if sample.judged is not None:
        return _judged(sample, *answer)
    better, worse, base_better, base_worse = answer
    margin = (better - base_better) - (worse - base_worse)
    value = _first(margin)
    detail = {"accuracy": value, "likelihood_accuracy": _first(better - worse), "margin": margin}
    return Score(id=sample.id, answer=None, parsed=None, target=sample.target, value=value, detail=detail)


def _judged(sample: Sample, own: float, base: float) -> Score:
    """Of an answer that was judged."""
    assert sample.judged is not None  # looked at by the caller
    margin = own - base if sample.judged[1] else base - own
    right, good = _first(margin), sample.judged[1]
    detail: dict[str, float] = {}
    for kind, of_it in zip(KINDS, (good, not good), strict=True):
        for name, value in (("accuracy", right), ("margin", margin)):
            detail |= {f"{kind}_{name}.part": of_it * value, f"{kind}_{name}.whole": float(of_it)}
    return Score(id=sample.id, answer=None, parsed=None, target=sample.target, value=right, detail=detail)


def _rated(sample: Sample, better: float, worse: float) -> Score:
    """Of a reward model's pair."""
    assert sample.pair is not None  # looked at by the caller
    if not (math.isfinite(better) and math.isfinite(worse)):
        raise InputError(Problem(sample.id, f"its rewards are {better} and {worse}", "train the reward model again, in fp32 or at a lower rate"))
    margin, (long, short) = better - worse, (len(" ".join(turn.content for turn in turns).split()) for turns in sample.pair)
    detail = {"accuracy": _first(margin), "margin": margin, "probability": 0.5 + 0.5 * math.tanh(margin / 2), "longer": float(long - short)}
    return Score(id=sample.id, answer=None, parsed=None, target=sample.target, value=detail["accuracy"], detail=detail)


def _require_both(good: int, bad: int) -> None:
    if not (good and bad):
        kind, moves = ("good", "raises") if good else ("bad", "lowers")
        why = f"all {good + bad} judged answers of gold are {kind}, so a model that {moves} every answer would be right"
        raise InputError(Problem("pair_accuracy", why, "draw or give gold rows of both kinds"))


def _first(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`accuracy` by the implicit reward, chance and base .5, `likelihood_accuracy` by the likelihood alone, and the mean `margin` in nats, of the base 0. A reward model has no
    likelihood, and an answer without another none to be likelier than: of judged ones there is also the accuracy on the good and on the bad ones.

    Raises InputError without rows, on empty references, and where all judged answers are of one kind: nothing would tell a better model from one that moves them all."""
    require_references("pair_accuracy", scores)
    if kinds := kinds_of(scores, "accuracy"):
        _require_both(*(int(whole.sum()) for _, whole in kinds))
        return tally(
            scores, ("accuracy", "margin", *(f"{kind}_accuracy" for kind in KINDS)), groups=groups, resamples=resamples, seed=seed, no_shares=("margin",)
        )
    ordered = all("likelihood_accuracy" in score.detail for score in scores)
    names = ("accuracy", "likelihood_accuracy", "margin") if ordered else ("accuracy", "margin")
    return tally(scores, names, groups=groups, resamples=resamples, seed=seed, no_shares=("margin",))
