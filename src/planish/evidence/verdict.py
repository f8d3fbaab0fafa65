"""Ship, keep the baseline, or get more gold: the gate's last word, with the sentence a report opens with (MISSION E6, D10, R-8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.facts import best
from planish.evidence.paired import aligned, compare, holm
from planish.evidence.power import ADVISED_ROWS, MINIMUM_ROWS, rows_needed
from planish.evidence.slices import Cuts, by_slice
from planish.evidence.statistic import row_values
from planish.scores import Comparison, EvalReport, RuleResult, Standing, Verdict

MIN_GAIN = 0.02


def decide(
    candidate: EvalReport,
    baselines: Sequence[EvalReport],
    rules: Sequence[RuleResult],
    *,
    metric: str,
    required: Sequence[str] = (),
    cheapest_first: Sequence[str] = (),
    min_gain: float = MIN_GAIN,
    groups: Mapping[str, str] | None = None,
) -> Verdict:
    """Judge the candidate on the rules and against the baseline that is best on `metric`.

    - A rule that failed, or a candidate clearly worse than the best baseline: keep_baseline.
    - It clearly wins (paired 95 % interval above 0), or ties while standing before that baseline in `cheapest_first`, and every rule passed: ship.
    - Otherwise something is undecided. On fewer than 200 rows, or when the gain seen is at least `min_gain` but not proved: need_more_gold, with the
      rows that would see it. Else keep_baseline: a tie ships the cheaper, and names absent from `cheapest_first` cost the most.

    Raises InputError with fewer than 30 gold rows, without a baseline, without one of the `required`, or on unpaired reports."""
    _refuse(candidate, baselines, metric, required)
    cost = {name: position for position, name in enumerate(cheapest_first)}

    def price(system: str) -> int:
        return cost.get(system, len(cost))

    rival = best(sorted(baselines, key=lambda report: price(report.system)), metric)
    comparisons = _corrected([compare(candidate, baseline, metric, groups=groups) for baseline in baselines])
    against = _signed(next(found for found in comparisons if found.reference == rival.system), candidate.metrics[metric].higher_is_better)
    cheaper = price(candidate.system) < price(rival.system)
    wins = against.low > 0 or (cheaper and against.high >= 0)
    open_rules = [rule for rule in rules if rule.outcome == "undecided"]
    failed = [rule for rule in rules if rule.outcome == "fail"]
    numbers = _numbers(candidate, rival, metric, comparisons)

    def verdict(decision: str, ship: str, sentence: str, rows: int | None = None) -> Verdict:
        fields = {"decision": decision, "ship": ship, "sentence": sentence, "rules": list(rules), "comparisons": comparisons, "rows_needed": rows}
        return Verdict.model_validate(fields)

    keep = f"Keep {rival.system}: "
    if failed:
        more = f" ({len(failed)} of {len(rules)} rules failed)" if len(rules) > 1 else ""
        return verdict("keep_baseline", rival.system, f'{keep}{candidate.system} fails "{failed[0].rule}": {failed[0].why}{more}; {numbers}.')
    if against.high < 0:
        return verdict("keep_baseline", rival.system, f"{keep}{candidate.system} is clearly worse: {numbers}.")
    if wins and not open_rules:
        why = "" if against.low > 0 else f", a tie, and {candidate.system} is the cheaper"
        return verdict("ship", candidate.system, f"Ship {candidate.system}: {numbers}{why}{_rules_hold(rules)}.")
    if against.n < ADVISED_ROWS or (not wins and against.difference >= min_gain):
        rows = max(ADVISED_ROWS, _rows_to_decide(candidate, rival, metric, max(against.difference, min_gain), against.n))
        undecided = f"{numbers}, which {'settles that, but not' if wins else 'does not settle'} " + (f'"{open_rules[0].rule}"' if open_rules else "it")
        sentence = f"Get more gold before shipping {candidate.system}: {undecided}; about {rows} rows would. Until then keep {rival.system}."
        return verdict("need_more_gold", rival.system, sentence, rows)
    if wins:
        return verdict("keep_baseline", rival.system, f'{keep}{candidate.system} does not clear "{open_rules[0].rule}": {open_rules[0].why}; {numbers}.')
    return verdict("keep_baseline", rival.system, f"{keep}{numbers}, within noise.")


def standings(systems: Sequence[EvalReport], metric: str, *, cuts: Cuts | None = None, groups: Mapping[str, str] | None = None) -> list[Standing]:
    """The table beside the word: every system with its cost per answer and its worst slice of 20 rows or more (proven weak, where any is).

    A system that was asked once per seed took its seconds for all of them (`evidence.seeds`)."""
    found = []
    for report in systems:
        seeds = report.metrics.get(f"{metric}.over_seeds")
        answered = len(report.scores) * (1 if seeds is None else seeds.n)
        slices = by_slice(report, cuts, groups=groups, resamples=1000).worst if cuts else None
        found.append(
            Standing(
                system=report.system,
                metric=report.metrics[metric],
                seconds_per_answer=report.seconds / answered if report.seconds > 0 else None,
                worst_slice=None if slices is None else f"{slices.key} {slices.value}",
                worst=None if slices is None else slices.metric,
            )
        )
    return found


def _corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """With Holm's p-values over all of them."""
    told = [found for found in comparisons if found.p_value is not None]
    adjusted = iter(holm([found.p_value for found in told if found.p_value is not None]))
    return [found if found.p_value is None else found.model_copy(update={"p_holm": next(adjusted)}) for found in comparisons]


def _refuse(candidate: EvalReport, baselines: Sequence[EvalReport], metric: str, required: Sequence[str]) -> None:
    problems = []
    if len(candidate.scores) < MINIMUM_ROWS:
        why = f"{len(candidate.scores)} gold rows: fewer than {MINIMUM_ROWS} decide nothing"
        problems.append(Problem("gold", why, f"{ADVISED_ROWS} rows at least, 400 recommended"))
    names = [report.system for report in baselines]
    if not names:
        problems.append(Problem("baseline", "no baseline was scored, so there is no verdict", "run the baseline stage: majority costs nothing"))
    problems += [Problem("baseline", f"{name} was not scored, so there is no verdict", "run the baseline stage") for name in required if name not in names]
    problems += [Problem("baseline", f"{name} occurs twice", "give each system its own name") for name in {*names} if names.count(name) > 1]
    absent = [report.system for report in (candidate, *baselines) if metric not in report.metrics]
    problems += [Problem(metric, f"{name} did not measure it", "score every system with the same scorers") for name in absent]
    if problems:
        raise InputError(*problems)


def _signed(found: Comparison, higher_is_better: bool) -> Comparison:
    """The comparison with plus meaning better."""
    if higher_is_better:
        return found
    return found.model_copy(update={"difference": -found.difference, "low": -found.high, "high": -found.low})


def _numbers(candidate: EvalReport, rival: EvalReport, metric: str, comparisons: Sequence[Comparison]) -> str:
    found = next(comparison for comparison in comparisons if comparison.reference == rival.system)
    ours, theirs = candidate.metrics[metric].value, rival.metrics[metric].value
    return (
        f"{candidate.system} {ours:.3f} against {theirs:.3f} of {rival.system} on {metric}, "
        f"difference {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] on {found.n} rows"
    )


def _rules_hold(rules: Sequence[RuleResult]) -> str:
    return {0: "", 1: "; the gate's rule holds"}.get(len(rules), f"; all {len(rules)} rules of the gate hold")


def _rows_to_decide(candidate: EvalReport, rival: EvalReport, metric: str, gain: float, n: int) -> int:
    """D10's formula with the discordance seen (mean squared difference of the rows, which for right/wrong rows is their share). A set metric can
    gain more than the share of rows that differ; the share is then taken to be the gain, and the answer is more than the rows there are."""
    seen = float(np.mean((row_values(candidate, metric) - row_values(aligned(candidate, rival), metric)) ** 2))
    gain = min(gain, 1.0)
    return max(n + 1, rows_needed(min(1.0, max(seen, gain)), gain))
