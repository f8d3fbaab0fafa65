"""Preferences that teach something else: longer is better, repeat the question, everything is good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.data.finding import CheckResult, Finding
from planish.data.normalise import normalised
from planish.data.table import Table
from planish.rows import Message, NoteCode, PreferenceRow, Row, UnpairedRow

FEWEST = 20
"""Rows below which no share says anything."""


def check(
    rows: Table,
    split: Mapping[str, str] | None = None,
    chat: Any = None,
    *,
    one_sided: float = 0.9,
    difference: float = 0.25,
    echo: int = 40,
    rare: float = 0.1,
) -> CheckResult:
    """Warnings about preference pairs and single judged answers (MISSION D4, D7); no row is set aside.

    `length_bias`: the better answer is the longer one (or the shorter) in at least the share `one_sided` of the pairs, and the mean lengths differ by the share
    `difference` of the smaller. `class_imbalance`: fewer than the share `rare` of the judged answers are good, or bad. Both take 20 rows.
    `prompt_in_answer`, per row: an answer to be learned holds the whole last question, of at least `echo` characters. Lengths are in words.
    """
    findings: list[Finding] = []
    pairs: list[tuple[int, int]] = []
    judged: list[bool] = []
    for key, seen in zip(rows.keys, rows.map(_look), strict=True):
        words, good, question, answer = seen
        if words is not None:
            pairs.append(words)
        if good is not None:
            judged.append(good)
        if len(question) >= echo and question in answer:
            why, fix = f'its answer repeats the whole question: "{question[:60]}…"', "cut the question out of the answer, unless the model is to repeat it"
            findings.append(Finding(row_id=key.id, code=NoteCode.PROMPT_IN_ANSWER, severity="warn", why=why, fix=fix))
    figures: dict[str, Any] = {"pairs": len(pairs), "judged": len(judged), "repeating": len(findings)}
    if pairs:
        figures["words"] = _lengths(pairs)
    if judged:
        figures["good"] = sum(judged)
    whole = _whole(figures, one_sided, difference, rare)
    return CheckResult(findings=(*whole, *findings), figures=figures)


def _look(row: Row) -> tuple[tuple[int, int] | None, bool | None, str, str]:
    """Words of both answers of a pair, the mark of a single answer, the last question and the answer to be learned from it."""
    if isinstance(row, PreferenceRow):
        better, worse = _text(row.chosen), _text(row.rejected)
        return (len(better.split()), len(worse.split())), None, _text(row.prompt[-1:]), better
    if isinstance(row, UnpairedRow):
        return None, row.label, _text(row.prompt[-1:]), _text(row.completion) if row.label else ""
    return None, None, "", ""


def _text(turns: tuple[Message, ...]) -> str:
    return normalised("\n".join(turn.content for turn in turns))


def _lengths(pairs: list[tuple[int, int]]) -> dict[str, float]:
    sizes = np.array(pairs)
    longer, shorter = (float((sizes[:, 0] > sizes[:, 1]).mean()), float((sizes[:, 0] < sizes[:, 1]).mean()))
    better, worse = (float(mean) for mean in sizes.mean(axis=0))
    return {"better": better, "worse": worse, "better_is_longer": longer, "better_is_shorter": shorter}


def _whole(figures: Mapping[str, Any], one_sided: float, difference: float, rare: float) -> list[Finding]:
    """What is said of the set as a whole."""
    found = []
    if figures["pairs"] >= FEWEST:
        words = figures["words"]
        share, how = max((words["better_is_longer"], "longer"), (words["better_is_shorter"], "shorter"))
        apart = abs(words["better"] - words["worse"]) / max(min(words["better"], words["worse"]), 1.0)
        if share >= one_sided and apart >= difference:
            why = f"the better answer is the {how} one in {share:.0%} of {figures['pairs']} pairs ({words['better']:.1f} words against {words['worse']:.1f})"
            fix = f"add pairs whose better answer is not the {how} one, or the model learns the length"
            found.append(Finding(row_id=None, code=NoteCode.LENGTH_BIAS, severity="warn", why=why, fix=fix))
    if figures["judged"] >= FEWEST and min(figures["good"], figures["judged"] - figures["good"]) < rare * figures["judged"]:
        why = f"{figures['good']} of {figures['judged']} judged answers are good: hardly anything tells good from bad"
        fix = "add answers of the rarer kind, or weigh them up"
        found.append(Finding(row_id=None, code=NoteCode.CLASS_IMBALANCE, severity="warn", why=why, fix=fix))
    return found
