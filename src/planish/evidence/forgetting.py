"""Whether a tuned model gained on its task without forgetting the rest, and what to change where it did not (MISSION C4).

General ability is the mean over suites of each suite's own share (the right next token, the right option), so that a suite of many tokens does not drown one of
few questions. Base and tuned are paired on the same rows; rows are drawn anew within each suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.intervals import RESAMPLES, Floats, percentile, resampled
from planish.evidence.paired import FEW_DISCORDANT, aligned, compare, score_interval
from planish.evidence.power import ADVISED_ROWS
from planish.evidence.statistic import measured, row_values, statistic
from planish.rows import Noun
from planish.scores import Comparison, EvalReport

DELTA = 0.03
HEADLINES = ("next_token_accuracy", "accuracy")
"""What a suite is judged by, of the figures it reports."""
GENERAL = "general"

Outcome = Literal["cleared", "forgot", "not_cleared", "too_few_rows", "no_gain"]


class Remedy(Noun):
    """A change of the recipe: under `key`, `value` instead of `now`. `merge` is no key of the recipe but a file for `planish merge`."""

    key: str
    now: Any
    value: Any
    why: str


class Forgetting(Noun):
    """`task` and `general` are tuned minus base, plus is better. `lost` names suites that fell by `delta` or more outside noise.

    cleared      the task's lower bound is above 0, and a general drop of `delta` is excluded
    forgot       a general drop of `delta` is proven, or a suite fell by that much outside noise
    not_cleared  the interval of the general drop reaches `delta`
    too_few_rows fewer than 200 general rows: they cannot clear 3 points whatever they show
    no_gain      nothing was forgotten, and the task is not proven better
    """

    outcome: Outcome
    sentence: str
    delta: float
    task: Comparison
    general: Comparison
    suites: list[Comparison]
    lost: list[str] = []
    remedies: list[Remedy] = []

    @property
    def cleared(self) -> bool:
        """Whether the guard passes."""
        return self.outcome == "cleared"


class Trained(NamedTuple):
    """What the last entry of the train list ran with: where it stands in the recipe, its adapter with all options, what its plan says, and its share of replay."""

    where: str
    adapter: str
    options: dict[str, Any]
    learning_rate: float
    steps: int
    epochs: float
    length: Literal["epochs", "max_steps", "max_tokens"]
    limit: float
    replay: float


def judge(
    task: Comparison, base: EvalReport, tuned: EvalReport, *, delta: float = DELTA, remedies: Sequence[Remedy] = (), resamples: int = RESAMPLES
) -> Forgetting:
    """The verdict on the task's paired difference and the general suites of both models. Raises InputError on unpaired reports, or where no suite was measured."""
    suites = [compare(tuned, base, name, resamples=resamples) for name in _headlines(base, tuned)]
    general = pooled(base, tuned, resamples=resamples)
    lost = [suite.metric for suite in suites if suite.high < 0 and -suite.difference >= delta]
    points = f"{100 * delta:g} points"
    if general.n < ADVISED_ROWS:
        outcome: Outcome = "too_few_rows"
        why = f"{general.n} general rows cannot clear {points}; measure {ADVISED_ROWS} at least"
    elif lost or general.high < -delta:
        outcome, why = "forgot", f"{_names(lost) or 'general ability'} fell by {points} or more outside noise"
    elif general.low <= -delta:
        outcome, why = "not_cleared", f"a drop of {points} is not excluded"
    elif task.low <= 0:
        outcome, why = "no_gain", f"general ability is kept, and a gain in {task.metric} is not proven"
    else:
        outcome, why = "cleared", f"the gain is proven and a drop of {points} is excluded"
    said = f"task {_points(task)}, general {_points(general)}"
    word = {"cleared": "Forgetting cleared", "forgot": "It forgot", "no_gain": "No gain"}.get(outcome, "Forgetting not cleared")
    offered = [] if outcome == "cleared" else list(remedies)
    first = f" First: {offered[0].key}: {offered[0].value}." if offered and outcome in ("forgot", "not_cleared") else ""
    return Forgetting(
        outcome=outcome, sentence=f"{word}: {said}: {why}.{first}", delta=delta, task=task, general=general, suites=suites, lost=lost, remedies=offered
    )


def pooled(base: EvalReport, tuned: EvalReport, *, resamples: int = RESAMPLES) -> Comparison:
    """Tuned minus base, the mean over suites; the interval from the paired bootstrap within each suite. Where fewer than 10 rows differ at all it is not narrower than
    Tango's score interval, because a bootstrap of so few is. Raises InputError as `judge` does."""
    names = _headlines(base, tuned)
    draws: list[Floats] = []
    better = worse = n = 0
    for seed, name in enumerate(names):
        ours, theirs = (measured(report, name) for report in (tuned, aligned(tuned, base)))
        of, against = statistic(ours, name), statistic(theirs, name)
        draws.append(resampled(lambda weights, of=of, against=against: of(weights) - against(weights), len(ours.scores), resamples=resamples, seed=seed))  # type: ignore[misc]
        values = row_values(ours, name) - row_values(theirs, name)
        better, worse, n = better + int((values > 0).sum()), worse + int((values < 0).sum()), n + len(values)
    low, high = percentile(np.mean(draws, axis=0))
    test = f"paired bootstrap {resamples} within each suite"
    if better + worse < FEW_DISCORDANT:
        score = score_interval(better, worse, n)
        low, high, test = min(low, score.low), max(high, score.high), f"{test}, not narrower than Tango's score interval"
    difference = float(np.mean([tuned.metrics[name].value - base.metrics[name].value for name in names]))
    return Comparison(metric=GENERAL, candidate=tuned.system, reference=base.system, difference=difference, low=low, high=high, n=n, test=test)


def remedies(trained: Trained, base: str, made: str) -> list[Remedy]:
    """What to change, the least costly to the task first: lower learning rate, lower rank, replay, fewer epochs, merge with the base (MISSION C4, C5, W1).

    `base` and `made` are the folders that a merge would be of. Values are halves of what the run had, and twice its share of replay.
    """
    found = [
        Remedy(key=f"{trained.where}.learning_rate", now=trained.learning_rate, value=_short(trained.learning_rate / 2), why="smaller steps move less away")
    ]
    rank = trained.options.get("r")
    if isinstance(rank, int) and rank > 1:
        value = {trained.adapter: {"r": rank // 2}}
        found.append(Remedy(key=f"{trained.where}.adapter", now={trained.adapter: {"r": rank}}, value=value, why="fewer directions in which weights can move"))
    elif trained.adapter == "full":
        found.append(Remedy(key=f"{trained.where}.adapter", now="full", value="lora", why="most weights stay what they were"))
    share = min(0.5, 2 * trained.replay) if trained.replay else 0.1
    if share > trained.replay:
        now = {"share": trained.replay} if trained.replay else None
        found.append(Remedy(key=f"{trained.where}.replay", now=now, value={"share": _short(share)}, why="general rows in every step hold what they teach"))
    halved = _short(trained.limit / 2) if trained.length == "epochs" else max(1, int(trained.limit) // 2)
    found.append(Remedy(key=f"{trained.where}.{trained.length}", now=trained.limit, value=halved, why=f"{trained.steps} steps are {trained.epochs:.2g} epochs"))
    merge = {"method": "soup", "models": [{"path": base, "weight": 0.5}, {"path": made, "weight": 0.5}]}
    found.append(Remedy(key="merge", now=None, value=merge, why="half way back to the base, without training (planish merge FILE)"))
    return found


def lines(found: Forgetting) -> list[str]:
    """What the report shows: the sentence, each suite, and the remedies in their order."""
    shown = [found.sentence]
    shown += [f"{one.metric}: {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}] on {one.n} rows" for one in found.suites]
    return shown + [
        f"remedy {place}: {one.key}: {one.value} (now {'none' if one.now is None else one.now}): {one.why}" for place, one in enumerate(found.remedies, start=1)
    ]


def _headlines(base: EvalReport, tuned: EvalReport) -> list[str]:
    """The metric of each suite; of a report without suites, its one figure over all tokens."""
    names = [name for name in base.metrics if name.startswith(f"{GENERAL}.") and name.count(".") >= 2 and name.rpartition(".")[2] in HEADLINES]
    names = names or [name for name in (f"{GENERAL}.{HEADLINES[0]}",) if name in base.metrics]
    problems = [Problem(name, f"{tuned.system} did not measure it", "measure both models on the same suites") for name in names if name not in tuned.metrics]
    if not names:
        problems.append(Problem("evaluate.general", f"{base.system} was measured on no general suite", "name one: held_out_text"))
    if problems:
        raise InputError(*problems)
    return names


UNBOUNDED = ("perplexity", "bits_per_byte")
"""Metrics that are no share of 1, so that a hundredth of them is no point."""


def _points(found: Comparison) -> str:
    if found.metric.rpartition(".")[2] in UNBOUNDED:
        return f"{found.metric} {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] on {found.n} rows"
    return f"{100 * found.difference:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}] on {found.n} rows"


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(name.split(".")[1] if name.count(".") > 1 else name for name in metrics)


def _short(value: float) -> float:
    """Two significant digits: a recipe is read by people."""
    return float(f"{value:.2g}")
