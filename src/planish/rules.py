"""The gate's rules: a tiny grammar over reported metrics, read by hand and never evaluated as code.

    rule      = metric operator (metric [("+" | "-") number] | number)
    operator  = ">" | ">=" | "<" | "<="
    metric    = dotted name: label.macro_f1, best_baseline.label.macro_f1, base.general.next_token_accuracy, quality_retained,
                a file's kl and top1_agreement to what it was made from
              | "worst_slice(" key ")." dotted name, against a number: worst_slice(label).label.accuracy >= 0.6

A worst slice is judged on the slices of that key with at least 20 rows: it reaches a bar when the bound of every one does, and misses it when one lies
below, corrected for how many there are (`evidence.slices.worst`).

Two measured metrics compare by the paired 95 % interval of their difference, which must lie wholly on the required side (`a >= b - m`: its lower
end at or above -m); a metric against a number by the one-sided 95 % bound. A metric that is missing fails its rule: none stands in for another."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from planish.errors import InputError, Problem, did_you_mean
from planish.scores import Comparison, Metric, RuleResult

Operator = Literal[">", ">=", "<", "<="]
OPERATORS: dict[str, Operator] = {">": ">", ">=": ">=", "<": "<", "<=": "<="}
TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|(?P<name>(?:worst_slice\([^()]+\)\.)?[A-Za-z_][\w-]*(?:\.[\w-]+)*)"
    r"|(?P<operator>[<>=!]+)|(?P<sign>[+-])|(?P<other>\S))"
)
WORST_SLICE = re.compile(r"worst_slice\(\s*(?P<key>[^()]*[^()\s])\s*\)\.(?P<metric>.+)")
OF_THE_SET = frozenset({"macro_f1", "micro_f1", "bleu", "chrf", "perplexity"})
"""Metrics of a whole set, whatever the scorer: no slice has them."""
SEQUENCES = " sequences"
"""How a figure's method ends that is counted in tokens and resampled by sequence: a file's kl and perplexity."""
GRAMMAR = 'write "metric > metric", "metric >= metric - 0.03" or "metric >= 0.9" with one of > >= < <='


@dataclass(frozen=True)
class Rule:
    """`metric operator reference + offset`, or `metric operator offset` where `reference` is None."""

    text: str
    metric: str
    operator: Operator
    reference: str | None
    offset: float

    def __str__(self) -> str:
        return self.text


class Facts(Protocol):
    """What was measured. Names are those of the rule, prefix included (`best_baseline.label.macro_f1`)."""

    def metric(self, name: str) -> Metric | None:
        """The metric, or None when nobody measured it."""

    def comparison(self, metric: str, reference: str) -> Comparison:
        """The paired difference metric - reference with its 95 % interval; InputError when the two cannot be paired."""

    def bound(self, name: str, side: Literal["lower", "upper"]) -> float:
        """One-sided 95 % bound of a metric that was measured; its value where it is no sample (a file size)."""

    def names(self) -> Sequence[str]:
        """Every name `metric` knows, for the nearest match."""


def parse(text: str, *, where: str = "gate") -> Rule:
    """Read one rule.

    Raises InputError at `where` (the recipe key) that quotes what cannot be read."""

    def refuse(why: str, fix: str = GRAMMAR) -> InputError:
        return InputError(Problem(where, f'"{text}": {why}', fix))

    tokens = [(str(match.lastgroup), match.group(str(match.lastgroup))) for match in TOKEN.finditer(text)]
    if not tokens:
        raise refuse("the rule is empty")
    for kind, token in tokens:
        if kind == "other":
            raise refuse(f'cannot read "{token}"')
        if kind == "operator" and token not in OPERATORS:
            raise refuse(f'"{token}" is no comparison here', "use > >= < or <=: a measured figure is never simply equal")
    if tokens[0][0] == "number":
        raise refuse("it starts with a number", "put the metric first: label.accuracy >= 0.9")
    if tokens[0][0] != "name":
        raise refuse(f'it starts with "{tokens[0][1]}", not with a metric')
    if len(tokens) < 2 or tokens[1][0] != "operator":
        raise refuse(f'no comparison follows "{tokens[0][1]}"')
    if sum(kind == "operator" for kind, _ in tokens) > 1:
        raise refuse("it compares twice", "write two rules")
    metric, operator = tokens[0][1], OPERATORS[tokens[1][1]]
    reference, offset = _right_side(tokens[2:], refuse)
    _slices_are_judged_alone(metric, reference, refuse)
    if reference is not None and not _same_metric(metric, reference):
        raise refuse("the two sides are different metrics", "compare one metric of two systems: label.macro_f1 > best_baseline.label.macro_f1")
    return Rule(" ".join(text.split()), metric, operator, reference, offset)


class _Refuse(Protocol):
    def __call__(self, why: str, fix: str = GRAMMAR) -> InputError: ...


def sliced(name: str) -> tuple[str, str] | None:
    """`worst_slice(label).label.accuracy` to ("label", "label.accuracy"); None for any other name."""
    found = WORST_SLICE.fullmatch(name)
    return None if found is None else (found["key"], found["metric"])


def _right_side(tokens: list[tuple[str, str]], refuse: _Refuse) -> tuple[str | None, float]:
    kinds = [kind for kind, _ in tokens]
    words = [token for _, token in tokens]
    if kinds == ["name"]:
        return words[0], 0.0
    if kinds == ["number"]:
        return None, float(words[0])
    if kinds == ["sign", "number"]:
        return None, float("".join(words))
    if kinds == ["name", "sign", "number"]:
        return words[0], float(words[1] + words[2])
    if not tokens:
        raise refuse("nothing follows the comparison")
    raise refuse(f'cannot read "{" ".join(words)}" after the comparison')


def _slices_are_judged_alone(metric: str, reference: str | None, refuse: _Refuse) -> None:
    """A worst slice has a key, a per-row metric, and a number on the other side."""
    if not (metric.startswith("worst_slice") or (reference or "").startswith("worst_slice")):
        return
    part = sliced(metric)
    if part is None or reference is not None:
        why = "a worst slice is compared with a number" if reference is not None else "a worst slice needs its key and its metric"
        raise refuse(why, "write worst_slice(label).label.accuracy >= 0.6")
    if part[1].rpartition(".")[2] in OF_THE_SET:
        raise refuse(f"{part[1]} is a figure of the whole set, not a mean over rows", "judge a slice by accuracy, exact or another per-row score")


def _same_metric(left: str, right: str) -> bool:
    """One name is the other behind a system's name, or both stand behind different systems."""
    if left == right or left.endswith(f".{right}") or right.endswith(f".{left}"):
        return left != right
    return left.partition(".")[2] == right.partition(".")[2] != ""


def decide(rule: Rule, facts: Facts) -> RuleResult:
    """Whether the rule holds on what was measured: pass, fail, or undecided where the interval straddles the bar.

    Raises InputError where two reports cannot be paired (other gold set, missing rows)."""
    for name in (rule.metric, rule.reference):
        if name is None:
            continue
        found = facts.metric(name)
        if found is None:
            return RuleResult(rule=rule.text, passed=False, why=f"{name} was not measured; {did_you_mean(name, facts.names())}")
        if not math.isfinite(found.value):
            because = f" ({found.method})" if found.method else ""
            return RuleResult(rule=rule.text, passed=False, why=f"{name} is {found.value}: undefined, so the rule fails{because}")
    if rule.reference is None:
        return _against_constant(rule, facts)
    comparison = facts.comparison(rule.metric, rule.reference)
    outcome = _outcome(rule.operator, comparison.low, comparison.high, rule.offset)
    required = f"{rule.operator} {rule.offset:+.3g}" if rule.offset else f"{rule.operator} 0"
    why = (
        f"{comparison.candidate} - {comparison.reference} = {comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}] "
        f"on {comparison.n} rows, required {required}"
    )
    return _result(rule, outcome, why)


def _against_constant(rule: Rule, facts: Facts) -> RuleResult:
    metric = facts.metric(rule.metric)
    assert metric is not None  # decide looked
    low, high = facts.bound(rule.metric, "lower"), facts.bound(rule.metric, "upper")
    side, bound = ("lower", low) if rule.operator in (">", ">=") else ("upper", high)
    which = f" ({metric.method})" if sliced(rule.metric) else ""
    why = f"{metric.value:.3f} on {metric.n} rows{which}, one-sided 95 % {side} bound {bound:.3f}, required {rule.operator} {rule.offset:g}"
    if low == high == metric.value and metric.n == 1:  # bytes, seconds of one run: no sample of rows
        why = f"{metric.value:,.6g}, required {rule.operator} {rule.offset:,.6g}"
    elif metric.method.endswith(SEQUENCES):
        why = why.replace(f"on {metric.n} rows", f"on {metric.n} tokens ({metric.method})")
    return _result(rule, _outcome(rule.operator, low, high, rule.offset), why)


def _outcome(operator: Operator, low: float, high: float, bar: float) -> Literal["pass", "fail", "undecided"]:
    if operator in ("<", "<="):  # mirrored: -x > -bar
        low, high, bar = -high, -low, -bar
    strict = operator in (">", "<")
    if low > bar or (low == bar and not strict):
        return "pass"
    return "fail" if high < bar or (high == bar and strict) else "undecided"


def _result(rule: Rule, outcome: Literal["pass", "fail", "undecided"], why: str) -> RuleResult:
    tail = {"pass": "", "fail": ": not met", "undecided": ": the interval straddles it"}[outcome]
    return RuleResult(rule=rule.text, passed=outcome == "pass", undecided=outcome == "undecided", why=why + tail)
