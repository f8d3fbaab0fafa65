"""The ladder: rungs from cheap to dear on one gold set, the climb stops at the first that clears the goal, and a dearer rung must earn its price (MISSION G2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

from planish import rules
from planish.errors import InputError, Problem
from planish.evidence.facts import ReportFacts
from planish.evidence.paired import compare
from planish.evidence.power import MINIMUM_ROWS
from planish.evidence.verdict import MIN_GAIN
from planish.rows import Noun
from planish.scores import Comparison, EvalReport, Metric

Outcome = Literal["clears", "undecided", "misses", "screened_out", "failed"]


class Cost(Noun):
    """What a rung costs. None is "not measured", never 0."""

    train_seconds: float | None = None
    peak_bytes: int | None = None
    artifact_bytes: int | None = None  # what must be kept beside the base model
    tokens_per_answer: float | None = None  # prompt and answer together
    seconds_per_answer: float | None = None
    undo: str = ""  # what it takes to go back


class Rung(Noun):
    """What became of a rung. A rung that was screened out was asked `rows` of the gold rows, every other one all of them."""

    name: str
    outcome: Outcome
    why: str
    rows: int
    metric: Metric | None = None
    gain: Comparison | None = None  # over the best rung below
    earned: bool = False  # the gain is at least min_gain, and its interval lies above 0
    cost: Cost = Cost()


class Climb(Noun):
    """The whole way up. `ship` is "" where no rung was scored on the whole gold set."""

    goal: str
    gold_rows: int
    rungs: tuple[Rung, ...]
    decision: Literal["ship", "need_more_gold", "not_reached"]
    ship: str
    reason: str
    rows_needed: int | None = None
    skipped: tuple[str, ...] = ()  # dearer rungs that were not needed


class Ascent:
    """The climb so far: rungs are added from cheap to dear; `done` says that no dearer one is needed.

    `goal` is a rule over one metric and a number. Raises InputError where it compares two systems, or where there are too few gold rows to decide anything."""

    def __init__(self, goal: str, gold_rows: int, *, min_gain: float = MIN_GAIN, groups: Mapping[str, str] | None = None) -> None:
        self.goal, self.gold_rows, self.min_gain, self._groups = rules.parse(goal, where="goal"), gold_rows, min_gain, groups
        problems = []
        if self.goal.reference is not None:
            problems.append(Problem("goal", f'"{goal}" compares two systems', 'a climb has a fixed bar: "macro_f1 >= 0.85"'))
        if gold_rows < MINIMUM_ROWS:
            problems.append(Problem("gold", f"{gold_rows} gold rows: fewer than {MINIMUM_ROWS} decide nothing", "bring more rows, or a gold file of their own"))
        if problems:
            raise InputError(*problems)
        self.rungs: list[Rung] = []
        self._best: EvalReport | None = None

    @property
    def done(self) -> bool:
        """Whether the last rung clears the goal."""
        return bool(self.rungs) and self.rungs[-1].outcome == "clears"

    def add(self, report: EvalReport, cost: Cost = Cost()) -> Rung:  # noqa: B008 (immutable)
        """A rung that was scored on the whole gold set. Raises InputError where the report lacks the goal's metric or is of another gold set."""
        metric = report.metrics.get(self.goal.metric)
        if metric is None:
            raise InputError(Problem("goal", f"{report.system} did not measure {self.goal.metric}", "measured: " + ", ".join(sorted(report.metrics))))
        result = rules.decide(self.goal, ReportFacts([report], groups=self._groups))
        gain = compare(report, self._best, self.goal.metric, groups=self._groups) if self._best is not None else None
        earned = gain is None or self._earned(gain, higher_is_better=metric.higher_is_better)
        outcome: Outcome = "clears" if result.passed else "undecided" if result.undecided else "misses"
        rung = Rung(name=report.system, outcome=outcome, why=result.why, rows=metric.n, metric=metric, gain=gain, earned=earned, cost=cost)
        if earned:
            self._best = report
        self.rungs.append(rung)
        return rung

    def screened_out(self, name: str, metric: Metric, why: str, cost: Cost = Cost()) -> Rung:  # noqa: B008
        """A rung that the sequential gate ruled out before the whole gold set was asked."""
        self.rungs.append(Rung(name=name, outcome="screened_out", why=why, rows=metric.n, metric=metric, cost=cost))
        return self.rungs[-1]

    def failed(self, name: str, why: str) -> Rung:
        """A rung that could not be measured at all: it says so, and the climb goes on."""
        self.rungs.append(Rung(name=name, outcome="failed", why=why, rows=0))
        return self.rungs[-1]

    def _earned(self, gain: Comparison, *, higher_is_better: bool) -> bool:
        better, least = (gain.difference, gain.low) if higher_is_better else (-gain.difference, -gain.high)
        return better >= self.min_gain and least > 0

    def conclude(self, skipped: Sequence[str] = ()) -> Climb:
        """The word and the sentence. A rung that clears the goal and does not earn its price over a cheaper one that may clear it too is not shipped."""
        best = self._best

        def climb(decision: Literal["ship", "need_more_gold", "not_reached"], ship: str, reason: str, rows: int | None = None) -> Climb:
            goal, rungs = str(self.goal), tuple(self.rungs)
            return Climb(
                goal=goal, gold_rows=self.gold_rows, rungs=rungs, decision=decision, ship=ship, reason=reason, rows_needed=rows, skipped=tuple(skipped)
            )

        if best is None:
            return climb("not_reached", "", self._none_left())
        own = next(rung for rung in self.rungs if rung.name == best.system)
        said = f"{own.metric} of {self.goal.metric}"
        if own.outcome == "clears":
            why = f"it is the cheapest of {len(self.rungs)} rungs tried that clears" if len(self.rungs) > 1 else "the cheapest rung clears"
            others = f"; {len(skipped)} dearer rung{'s' if len(skipped) > 1 else ''} not needed" if skipped else ""
            return climb("ship", best.system, f'Ship {best.system}: {why} "{self.goal}" with {said}{others}.')
        clears = next((rung for rung in self.rungs if rung.outcome == "clears"), None)
        if clears is None and own.outcome == "misses":
            return climb("not_reached", best.system, f'No rung reaches "{self.goal}": the best is {best.system} with {said}. Keep it, or bring rows.')
        if clears is not None:
            reason = f'Get more gold: {clears.name} clears "{self.goal}", but is no proven gain over the cheaper {best.system} with {said}'
        else:
            reason = f'Get more gold: {best.system} has {said}, which does not settle "{self.goal}"'
        rows = self._rows_to_decide(own)
        more = f"; about {rows} rows would" if rows is not None else "; it stands on the bar, and no number of rows settles that"
        return climb("need_more_gold", best.system, f"{reason}{more}. Until then keep {best.system}.", rows)

    def _none_left(self) -> str:
        """Why there is nothing to rank: each rung was ruled out early, or could not be measured."""
        out = [rung.name for rung in self.rungs if rung.outcome == "screened_out"]
        failed = [rung.name for rung in self.rungs if rung.outcome == "failed"]
        said = [f"{', '.join(out)} ruled out before all {self.gold_rows} gold rows were asked"] if out else []
        said += [f"{', '.join(failed)} failed"] if failed else []
        return f'No rung reaches "{self.goal}": {"; ".join(said)}. ' + ("Bring rows, a larger model or a lower bar." if out else "See why, and climb again.")

    def _rows_to_decide(self, rung: Rung) -> int | None:
        """Gold rows at which the one-sided 95 % bound of what was seen would pass the bar: widths shrink with the root of the rows."""
        metric = rung.metric
        assert metric is not None
        room = abs(metric.value - self.goal.offset)
        if metric.low is None or metric.high is None or room < 1e-9:
            return None
        one_sided = NormalDist().inv_cdf(0.95) / NormalDist().inv_cdf(0.975)
        width = (metric.high - metric.low) / 2 * one_sided
        return max(metric.n + 1, math.ceil(metric.n * (width / room) ** 2))
