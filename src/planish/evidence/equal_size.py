"""Pruning held against its simpler rivals: every quantised file of the uncut model that is no larger, on the same gold rows (MISSION Z9, Z10, R-8)."""

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
    """A pruned file less the quantised rival that it beats least, with the paired interval; plus is the pruned one's. `equal` is False where the smallest rival is still the
    larger file."""

    file: str
    bytes: int
    rival: str
    rival_bytes: int
    equal: bool
    difference: Comparison
    decision: Literal["prune", "quantise"]
    sentence: str


def against_quantised(pruned: Sized, rivals: Sequence[Sized], metric: str, *, groups: Mapping[str, str] | None = None) -> EqualSize:
    """Against every rival of at most LARGER times the bytes, or the smallest where all are larger. Pruning must win outside noise against each: one it does not beat is
    reason enough to quantise. (All must be beaten, so that no correction for their number is needed.) Shown is the one with the least lower bound.

    Raises InputError without rivals, and for reports that are not on the same rows.
    """
    if not rivals:
        raise InputError(Problem(pruned.file, "no file of the uncut model was made, so there is nothing of equal size", "add one: compress: {export: [gguf]}"))
    fit = [one for one in rivals if one.bytes <= LARGER * pruned.bytes]
    held = [(_gain(pruned, one, metric, groups), one) for one in fit or [min(rivals, key=lambda one: one.bytes)]]
    found, rival = min(held, key=lambda each: each[0].low)
    decision: Literal["prune", "quantise"] = "prune" if found.low > 0 or (not fit and found.high >= 0) else "quantise"
    apart = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] of {metric} on {found.n} rows"
    sizes = f"{pruned.file} ({pruned.bytes / 1e6:.1f} MB) against {rival.file} ({rival.bytes / 1e6:.1f} MB)"
    sizes += f", the hardest to beat of {len(fit)} that are no larger" if len(fit) > 1 else ""
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


def _gain(pruned: Sized, rival: Sized, metric: str, groups: Mapping[str, str] | None) -> Comparison:
    """The pruned file less a rival; plus is better, whichever way the metric counts."""
    found = compare(pruned.report, rival.report, metric, groups=groups)
    if pruned.report.metrics[metric].higher_is_better:
        return found
    return found.model_copy(update={"difference": -found.difference, "low": -found.high, "high": -found.low})


def _word(found: Comparison, *, equal: bool) -> str:
    if not equal:
        return "every quantised file is larger; " + (
            "what is smaller is worse outside noise" if found.high < 0 else "no loss outside noise for the smaller file"
        )
    if found.low > 0:
        return "pruning is better at equal size"
    return "quantise instead: pruning is worse at equal size" if found.high < 0 else "no difference outside noise: quantise instead, which is simpler"
