"""Right or not by rule: a final number, a final text, a pattern, a JSON Schema, or several of them; doubt is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from planish.data.verify import Asked, require_options, verify
from planish.evidence.tally import errors_seen, require_references, tally
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "score"
UNREAD = frozenset({"empty", "no_answer", "several_answers", "unit", "too_long", "no_match", "not_json", "crash"})
"""Reasons for which nothing could be read; the others are about what was read."""


def score(
    sample: Sample,
    answer: str | None,
    *,
    kind: Literal["numeric", "exact", "regex", "json_schema", "composite"] = "numeric",
    tolerance: float = 0.0,
    units: list | None = None,  # type: ignore[type-arg]
    pattern: str | None = None,
    schema: dict | None = None,  # type: ignore[type-arg]
    checks: list | None = None,  # type: ignore[type-arg]
    combine: Literal["all", "mean"] = "all",
) -> Score:
    """Hold the answer to the sample's target (`data.verify`). `value` is the score; `detail` names why it is not full marks. `tolerance` is relative; `units` may
    follow a number; `checks` are a composite's parts.

    Raises InputError for an option that the kind does not take or lacks, and for a target that is no reference of its kind."""
    given: dict[str, Any] = {"tolerance": tolerance or None, "units": units, "pattern": pattern, "schema": schema, "checks": checks}
    given |= {"combine": combine if combine != "all" else None}
    options = {name: item for name, item in given.items() if item is not None}
    require_options(kind, options)
    prompts = tuple(message.content for message in sample.messages)
    found = verify(answer, Asked(sample.id, sample.target, prompts), kind, options)
    detail = {"score": found.score, "parse_rate": float(found.reason not in UNREAD)} | ({f"error.{found.reason}": 1.0} if found.reason else {})
    return Score(id=sample.id, answer=answer, parsed=found.parsed, target=sample.target, value=found.score, detail=detail)


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`score`, the mean over rows; `parse_rate`, the share of answers that could be read; `error.<reason>`. Raises InputError without rows or references."""
    require_references("verifier", scores)
    return tally(scores, ("score", "parse_rate", *errors_seen(scores)), groups=groups, resamples=resamples, seed=seed)
