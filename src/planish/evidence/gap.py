"""What a run's baselines say of the gap: a measured gap beats a stated one (MISSION G1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from planish.evidence.guide_rows import Gap
from planish.evidence.paired import compare
from planish.evidence.verdict import MIN_GAIN
from planish.scores import EvalReport

FORM_HELD = 0.95
"""Share of answers that can be read at all, below which form is what is missing."""
_BY_SCORER: dict[str, Gap] = {"tool_call": "tools", "verifier": "reasoning", "pair_accuracy": "preference", "judge": "preference"}


class Measured(NamedTuple):
    """The gap, what was seen, and the share that the prompt alone gets right."""

    gap: Gap
    why: str
    prompt_holds: float


def measured_gap(reports: Mapping[str, EvalReport], primary: str) -> Measured | None:
    """The gap that the baselines of one gold set show, by their `primary` metric; None where the prompt was not measured.

    Retrieval that beats the prompt says knowledge; answers that cannot be read say behaviour; examples that beat the prompt say steering. A gain counts from .02, with its
    paired interval above 0. Else the scorer says it: calls, verified answers, comparisons; and behaviour where nothing does.
    """
    asked = reports.get("prompt")
    if asked is None or primary not in asked.metrics:
        return None
    holds = asked.metrics[primary].value
    scorer = primary.partition(".")[0]
    read = asked.metrics.get(f"{scorer}.parse_rate")
    signs: list[tuple[Gap, Callable[[], str | None]]] = [
        ("knowledge", lambda: _gains(reports, "rag", primary)),
        ("behaviour", lambda: f"{read.value:.0%} of the prompt's answers can be read" if read is not None and read.value < FORM_HELD else None),
        ("steering", lambda: _gains(reports, "few_shot", primary)),
    ]
    for gap, seen in signs:
        if (why := seen()) is not None:
            return Measured(gap, why, holds)
    gap = _BY_SCORER.get(scorer, "behaviour")
    return Measured(gap, f"the prompt has {asked.metrics[primary]} of {primary}, and neither documents nor examples change it", holds)


def _gains(reports: Mapping[str, EvalReport], solver: str, metric: str) -> str | None:
    """How much a solver gains over the prompt, where it is proved."""
    if solver not in reports or metric not in reports[solver].metrics:
        return None
    found = compare(reports[solver], reports["prompt"], metric)
    return (
        f"{solver} gains {found.difference:.3f} [{found.low:.3f}, {found.high:.3f}] over the prompt" if found.difference >= MIN_GAIN and found.low > 0 else None
    )
