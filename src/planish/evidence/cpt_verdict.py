"""Whether continued pretraining was worth it: judged by the task after all stages against the same without it, never by its own loss (MISSION C1, C3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from planish.rows import Noun
from planish.scores import Comparison, Metric

Outcome = Literal["helped", "no_benefit", "harmed"]


class StageReport(Noun):
    """`stages`: the systems in their order; `domain`: perplexity of documents that were never trained, by stage; `domain_change`: their loss in nats a token after CPT
    minus before; `general`: the candidate's general ability minus the base's; `task`: the gold metric by stage; `ci`: candidate minus control on gold, plus is better.

    helped      the interval of the gain lies above 0
    no_benefit  it reaches 0: keep what the control is
    harmed      it lies below 0
    """

    stages: list[str]
    domain: dict[str, Metric]
    domain_change: Comparison | None
    general: Comparison | None
    task: dict[str, Metric]
    ci: Comparison
    verdict: Outcome
    sentence: str


def judge(
    task: Mapping[str, Metric],
    gain: Comparison,
    *,
    domain: Mapping[str, Metric] | None = None,
    domain_change: Comparison | None = None,
    general: Comparison | None = None,
) -> StageReport:
    """The verdict on a candidate that was pretrained on, `gain`'s candidate, and its control, the reference: the same list of entries without CPT, or the base. `domain` is
    in the order of the stages."""
    higher = next((metric.higher_is_better for metric in task.values()), True)
    ci = gain if higher else gain.model_copy(update={"difference": -gain.difference, "low": -gain.high, "high": -gain.low})
    verdict: Outcome = "helped" if ci.low > 0 else "harmed" if ci.high < 0 else "no_benefit"
    word = {"helped": "CPT helped", "no_benefit": "CPT was not your problem: no benefit", "harmed": "CPT harmed the task"}[verdict]
    p_value = "" if ci.p_value is None else f", p = {ci.p_value:.2f}"
    said = f"{word}: {ci.metric} {ci.difference:+.3f} [{ci.low:+.3f}, {ci.high:+.3f}]{p_value} on {ci.n} rows against {ci.reference}"
    then = "keep CPT" if verdict == "helped" else f"keep {ci.reference}"
    return StageReport(
        stages=list(task),
        domain=dict(domain or {}),
        domain_change=domain_change,
        general=general,
        task=dict(task),
        ci=ci,
        verdict=verdict,
        sentence=f"{said}; {_domain(domain or {}, domain_change)}{then}.",
    )


def lines(found: StageReport) -> list[str]:
    """What a report shows: the sentence, then each stage's own figures."""
    shown = [found.sentence, *(f"{name}: {found.ci.metric} {found.task[name]}" for name in found.stages)]
    shown += [f"{name}: domain perplexity {found.domain[name]}" for name in dict.fromkeys(("base", *found.stages)) if name in found.domain]
    if found.general is not None:
        one = found.general
        shown.append(f"general ability against the base: {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}] on {one.n} rows")
    return shown


def _domain(domain: Mapping[str, Metric], change: Comparison | None) -> str:
    if len(domain) < 2:
        return ""
    before, after = list(domain.values())[:2]
    proven = "" if change is None or change.high < 0 else ", which is no proven fall"
    return f"domain perplexity {before.value:.3g} -> {after.value:.3g}{proven}; "
