"""Answers to a gold set turned into a report: the same code for a solver, a tuned model, a 4-bit file and a live endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from planish import shelf
from planish.data.task import COST, FINISH
from planish.errors import InputError, Problem
from planish.evidence.tally import tally
from planish.model.asker import Answer, told_of
from planish.recipe_evaluate import DecodingSection
from planish.recipe_keys import Use
from planish.rows import Sample
from planish.scores import EvalReport, Metric, Score
from planish.stages._gold import Gold

BasePairs = Sequence[tuple[float, ...]]
"""ln p of the better and of the worse answer of each sample under the base model, asked the plain question."""


@dataclass(frozen=True)
class Judged:
    """A report, and the metric by which its systems are ranked."""

    report: EvalReport
    primary: str


def reads(use: Use) -> str:
    """What a scorer is given: the text of an answer, unless it says otherwise."""
    return str(getattr(shelf.find("scorers", use.name).load(), "READS", "text"))


def primary(scorers: Sequence[Use]) -> str:
    """The metric by which systems are ranked: the first scorer's own."""
    scorer = scorers[0].name
    return f"{scorer}.{shelf.find('scorers', scorer).load().PRIMARY}"


def readable(scorers: Sequence[Use]) -> list[Use]:
    """The scorers that an answer's text is enough for: those that a file or an endpoint, which tell no log-probabilities, can be scored by."""
    return [use for use in scorers if reads(use) == "text"]


def require_references(gold: Gold, scorers: Sequence[Use]) -> None:
    """Raise InputError naming every gold row whose reference a scorer cannot use, and every setting it refuses: before any model is asked for anything."""
    problems: list[Problem] = []
    for use in scorers:
        module = shelf.find("scorers", use.name).load()
        try:
            scores = score_each(shelf.call("scorers", use.name, "score", use.options), gold.samples, [_harmless(reads(use), one) for one in gold.samples])
            module.metrics(scores, gold.labels, resamples=2)
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))


def _harmless(kind: str, sample: Sample) -> Any:
    """What a scorer is shown to look at the reference alone."""
    numbers = {"text": 0, "log_probabilities": 1, "pair_log_probabilities": 2 if sample.pair is None else 4}[kind]
    return (-1.0,) * numbers or None


def judge(
    system: str,
    answers: Sequence[Answer | str | None],
    gold: Gold,
    scorers: Sequence[Use],
    seconds: float,
    base: BasePairs | None = None,
    told: DecodingSection | None = None,
) -> Judged:
    """Score every answer with every scorer; metrics are named `<scorer>.<metric>`. The first scorer's rows are the report's rows; what the others say of a row
    stands in its details under their names, so that their metrics can be paired too. How answers ended is reported beside them (`finish.length`), and how they were made where
    `told` says it and a model was asked for a text.

    A scorer that reads what this system does not tell (log-probabilities of a solver that only writes) is left out: its metric is missing, and a rule on it fails.
    Raises InputError where that leaves no scorer.
    """
    given = [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers]
    metrics: dict[str, Metric] = {}
    rows, ranked_by = None, ""
    for use in scorers:
        shown = _shown(reads(use), given, base)
        if shown is None:
            continue
        module = shelf.find("scorers", use.name).load()
        scores = score_each(shelf.call("scorers", use.name, "score", use.options), gold.samples, shown)
        for name, metric in module.metrics(scores, gold.labels, groups=gold.groups).items():
            metrics[f"{use.name}.{name}"] = metric.model_copy(update={"name": f"{use.name}.{name}"})
        if rows is None:
            rows, ranked_by = scores, f"{use.name}.{module.PRIMARY}"
        else:
            rows = [_with(row, {f"{use.name}.{name}": item for name, item in other.detail.items()}) for row, other in zip(rows, scores, strict=True)]
    if rows is None:
        fix = "add a scorer that reads the answers themselves to evaluate.scorers"
        raise InputError(Problem("evaluate.scorers", f"none of them can read what {system} says: it tells no log-probabilities", fix))
    rows = [_with(row, {name: float(f"finish.{answer.finish}" == name) for name in FINISH} | _spent(answer)) for row, answer in zip(rows, given, strict=True)]
    counted = COST if all(answer.tokens is not None for answer in given) else ()
    ended = {name: metric.model_copy(update={"higher_is_better": False}) for name, metric in tally(rows, (*FINISH, *counted), groups=gold.groups).items()}
    asked = told is not None and any(isinstance(answer, Answer) and answer.text is not None for answer in answers)
    decoding = told_of(gold.task, told) if told is not None and asked else None
    return Judged(EvalReport(system=system, gold=gold.sha256, metrics=metrics | ended, scores=rows, seconds=seconds, decoding=decoding), ranked_by)


def _spent(answer: Answer) -> dict[str, float]:
    """The tokens of an answer and of its prompt, where they were counted."""
    return dict(zip(COST, map(float, answer.tokens), strict=True)) if answer.tokens is not None else {}


def _shown(kind: str, answers: Sequence[Answer], base: BasePairs | None) -> list[Any] | None:
    """What a scorer is given of each answer; None where this system does not tell it."""
    if kind == "text":
        return [answer.text for answer in answers]
    told = [answer.references for answer in answers]
    if kind == "log_probabilities":
        return None if any(one.log_probs is None for one in told) else [one.log_probs for one in told]
    if told and all(one.rewards is not None for one in told):
        return [one.rewards for one in told]  # a reward model's own; it is measured against no base
    if base is None or any(one.pair is None for one in told):
        return None
    return [(*(one.pair or ()), *before) for one, before in zip(told, base, strict=True)]


def score_each(score: Callable[..., Score], samples: Sequence[Sample], answers: Sequence[Any]) -> list[Score]:
    """Every answer scored. Raises InputError for every row whose reference the scorer cannot use, all at once."""
    scores: list[Score] = []
    problems: list[Problem] = []
    for sample, answer in zip(samples, answers, strict=True):
        try:
            scores.append(score(sample, answer))
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return scores


def _with(row: Score, more: dict[str, float]) -> Score:
    return row.model_copy(update={"detail": row.detail | more})
