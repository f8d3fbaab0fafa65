"""Numbers that carry their own evidence: a metric is never a bare float."""

from __future__ import annotations

from typing import Any, Literal

from planish.rows import Noun


class Score(Noun):
    """How one answer to one gold sample was judged."""

    id: str
    answer: str | None
    parsed: str | None  # what the scorer read from the answer; None when it could not be parsed (counts as wrong)
    target: str
    value: float  # 0 to 1
    detail: dict[str, float] = {}


class Metric(Noun):
    """A figure with its sample size and 95 % interval. `low` and `high` are None only where the figure is not a sample."""

    name: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    kind: Literal["measured", "estimated"] = "measured"
    lower: float | None = None  # one-sided 95 % bounds, where no rows are kept from which a gate could make them
    upper: float | None = None
    method: str = ""  # how the interval was made: "wilson", "bootstrap 10000", "range of 3 seeds"
    higher_is_better: bool = True

    def __str__(self) -> str:
        interval = f" [{self.low:.3f}, {self.high:.3f}]" if self.low is not None and self.high is not None else ""
        return f"{self.value:.3f}{interval} (n={self.n})"


class Comparison(Noun):
    """A paired difference `candidate - reference` of one metric on the same rows."""

    metric: str
    candidate: str
    reference: str
    difference: float
    low: float  # two-sided 95 %
    high: float
    n: int
    p_value: float | None = None
    test: str = ""  # "paired bootstrap 10000", "exact McNemar"
    p_holm: float | None = None  # corrected for all comparisons of its verdict


class EvalReport(Noun):
    """What one system scored on one gold set. `gold` is the gold set's hash: reports on different hashes are never compared. `decoding`: how its texts were made, every
    setting by name; None where none was written by a model, and in reports from before it was kept."""

    system: str
    gold: str
    metrics: dict[str, Metric]
    scores: list[Score]
    seconds: float = 0.0
    details: dict[str, str] = {}
    decoding: dict[str, Any] | None = None


class RuleResult(Noun):
    """One gate rule with what it was decided on. A rule that is not passed failed, or is `undecided`: its interval straddles the bar and more rows may tell."""

    rule: str
    passed: bool
    why: str
    undecided: bool = False

    @property
    def outcome(self) -> Literal["pass", "fail", "undecided"]:
        """The three ways a rule can end."""
        return "pass" if self.passed else "undecided" if self.undecided else "fail"


class Standing(Noun):
    """One system of a verdict: what it scores, what an answer costs, where it is worst. None is "not measured", never 0."""

    system: str
    metric: Metric
    seconds_per_answer: float | None = None  # the whole pass over the gold set, fitting included, by its rows
    worst_slice: str | None = None
    worst: Metric | None = None


class Verdict(Noun):
    """What the gate says, in a word, a sentence and its rules."""

    decision: Literal["ship", "keep_baseline", "need_more_gold"]
    sentence: str
    ship: str  # the name of the system to ship
    rules: list[RuleResult]
    comparisons: list[Comparison] = []
    systems: list[Standing] = []  # the candidate first
    rows_needed: int | None = None  # gold rows that would decide, where the decision is need_more_gold (MISSION D10)
