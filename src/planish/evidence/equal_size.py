"""Pruning held against its simpler rival: a quantised file of the uncut model that is no larger, on the same gold rows (MISSION Z9, Z10, R-8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from planish.errors import InputError, Problem
from planish.evidence.paired import compare
from planish.rows import Noun
from planish.scores import Comparison, EvalReport

LARGER = 1.05
"""A rival may be so many times the size and still counts as equal: files of one model come in steps."""


class Sized(NamedTuple):
    """A file with its bytes and what it scored."""

    file: str
    bytes: int
    report: EvalReport


class EqualSize(Noun):
    """A pruned file less its quantised rival, with the paired interval; plus is the pruned one's. `equal` is False where the smallest rival is still the larger file."""

    file: str
    bytes: int
    rival: str
    rival_bytes: int
    equal: bool
    difference: Comparison
    decision: Literal["prune", "quantise"]
    sentence: str


def against_quantised(pruned: Sized, rivals: Sequence[Sized], metric: str, *, groups: Mapping[str, str] | None = None) -> EqualSize:
    """The largest rival of at most LARGER times the bytes, or the smallest where all are larger: chosen by size, never by score. Pruning must win outside noise.

    Raises InputError without rivals, and for reports that are not on the same rows.
    """
    if not rivals:
        raise InputError(Problem(pruned.file, "no file of the uncut model was made, so there is nothing of equal size", "add one: compress: {export: [gguf]}"))
    fit = [one for one in rivals if one.bytes <= LARGER * pruned.bytes]
    rival = max(fit, key=lambda one: one.bytes) if fit else min(rivals, key=lambda one: one.bytes)
    found = compare(pruned.report, rival.report, metric, groups=groups)
    if not pruned.report.metrics[metric].higher_is_better:
        found = found.model_copy(update={"difference": -found.difference, "low": -found.high, "high": -found.low})
    decision: Literal["prune", "quantise"] = "prune" if found.low > 0 or (not fit and found.high >= 0) else "quantise"
    apart = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] of {metric} on {found.n} rows"
    sizes = f"{pruned.file} ({pruned.bytes / 1e6:.1f} MB) against {rival.file} ({rival.bytes / 1e6:.1f} MB)"
    return EqualSize(
        file=pruned.file,
        bytes=pruned.bytes,
        rival=rival.file,
        rival_bytes=rival.bytes,
        equal=bool(fit),
        difference=found,
        decision=decision,
        sentence=f"{sizes}: {apart}: {_word(found, equal=bool(fit))}.",
    )


def _word(found: Comparison, *, equal: bool) -> str:
    if not equal:
        return "every quantised file is larger; " + (
            "what is smaller is worse outside noise" if found.high < 0 else "no loss outside noise for the smaller file"
        )
    if found.low > 0:
        return "pruning is better at equal size"
    return "quantise instead: pruning is worse at equal size" if found.high < 0 else "no difference outside noise: quantise instead, which is simpler"
