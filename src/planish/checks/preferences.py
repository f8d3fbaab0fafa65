"""Preferences that teach something else: longer is better, repeat the question, everything is good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.data.finding import CheckResult, Finding
from planish.data.normalise import normalised
from planish.data.pair_health import Judged, annotators, contradictions, generators, judged
from planish.data.table import Table
from planish.rows import Message, NoteCode, PreferenceRow, Row, UnpairedRow

FEWEST = 20
"""Rows below which no share says anything."""
ENOUGH = 200
"""Pairs below which a preference objective is not worth its run."""
MATCHED = 0.25
"""Answers whose lengths differ by at most this share of the shorter one count as equally long."""


def check(
    rows: Table,
    split: Mapping[str, str] | None = None,
    chat: Any = None,
    *,
    one_sided: float = 0.9,
    difference: float = 0.25,
    echo: int = 40,
    rare: float = 0.1,
    kappa: float = 0.4,
    policy: str | None = None,
    on_policy: float = 0.5,
) -> CheckResult:
    """Warnings about preference pairs and single judged answers (MISSION D4, D7, P1); no row is set aside.

    `length_bias`: the better answer is the longer one (or the shorter) in at least the share `one_sided` of the pairs, and the mean lengths differ by the share
    `difference` of the smaller. `class_imbalance`: fewer than the share `rare` of the judged answers are good, or bad. Both take 20 rows.
    `tie`, per row: both answers say the same. `contradiction`, per row: another row turns the verdict round. `annotators_disagree`: two annotators (column `annotator`) have
    a kappa below `kappa`. `off_policy`: less than the share `on_policy` of the pairs with a column `generator` was written by the model named `policy`.
    `prompt_in_answer`, per row: an answer to be learned holds the whole last question, of at least `echo` characters. Lengths are in words.
    """
    findings: list[Finding] = []
    pairs: list[tuple[int, int]] = []
    held: dict[str, Judged] = {}
    marks: list[bool] = []
    for key, seen in zip(rows.keys, rows.map(_look), strict=True):
        words, good, question, answer, pair = seen
        if words is not None and pair is not None:
            pairs.append(words)
            held[key.id] = pair
        if good is not None:
            marks.append(good)
        if len(question) >= echo and question in answer:
            why, fix = f'its answer repeats the whole question: "{question[:60]}…"', "cut the question out of the answer, unless the model is to repeat it"
            findings.append(Finding(row_id=key.id, code=NoteCode.PROMPT_IN_ANSWER, severity="warn", why=why, fix=fix))
    figures: dict[str, Any] = {"pairs": len(pairs), "judged": len(marks), "repeating": len(findings)}
    if pairs:
        against = _against(held)
        findings += against
        figures |= {
            "words": _lengths(pairs),
            "length_matched": _matched(pairs),
            "enough": len(pairs) >= ENOUGH,
            "ties": sum(finding.code == NoteCode.TIE for finding in against),
            "contradictions": sum(finding.code == NoteCode.CONTRADICTION for finding in against),
            "annotators": annotators(list(held.values())),
            "generators": generators(list(held.values())),
        }
    if marks:
        figures["good"] = sum(marks)
    whole = _whole(figures, one_sided, difference, rare)
    return CheckResult(findings=(*whole, *_makers(figures, kappa, policy, on_policy), *findings), figures=figures)


def _look(row: Row) -> tuple[tuple[int, int] | None, bool | None, str, str, Judged | None]:
    """Words of both answers of a pair, the mark of a single answer, the last question and the answer to be learned from it, and the pair by its keys."""
    if isinstance(row, PreferenceRow):
        better, worse = _text(row.chosen), _text(row.rejected)
        return (len(better.split()), len(worse.split())), None, _text(row.prompt[-1:]), better, judged(row)
    if isinstance(row, UnpairedRow):
        return None, row.label, _text(row.prompt[-1:]), _text(row.completion) if row.label else "", None
    return None, None, "", "", None


def _text(turns: tuple[Message, ...]) -> str:
    return normalised("\n".join(turn.content for turn in turns))


def _lengths(pairs: list[tuple[int, int]]) -> dict[str, float]:
    sizes = np.array(pairs)
    longer, shorter = (float((sizes[:, 0] > sizes[:, 1]).mean()), float((sizes[:, 0] < sizes[:, 1]).mean()))
    better, worse = (float(mean) for mean in sizes.mean(axis=0))
    return {"better": better, "worse": worse, "better_is_longer": longer, "better_is_shorter": shorter}


def _matched(pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """Of the pairs with about equally long answers: how many there are, and in which share the better one is still the longer."""
    near = [(better, worse) for better, worse in pairs if abs(better - worse) <= MATCHED * min(better, worse)]
    unequal = [better > worse for better, worse in near if better != worse]
    return {"pairs": len(near), "better_is_longer": sum(unequal) / len(unequal) if unequal else None}


def _against(held: Mapping[str, Judged]) -> list[Finding]:
    """Pairs without a preference, and pairs of which another says the opposite."""
    found = []
    for row, pair in held.items():
        if pair.better == pair.worse:
            why, fix = "both answers say the same, case and white space aside", "remove the pair, or write what the better one does better"
            found.append(Finding(row_id=row, code=NoteCode.TIE, severity="warn", why=why, fix=fix))
    for row, other in contradictions(held).items():
        why, fix = f"prefers the answer that row {other} rejects, of the same two to the same prompt", "decide which is right, and remove the other"
        found.append(Finding(row_id=row, code=NoteCode.CONTRADICTION, severity="warn", why=why, fix=fix, see=other))
    return found


def _makers(figures: Mapping[str, Any], kappa: float, policy: str | None, on_policy: float) -> list[Finding]:
    """What is said of who judged the answers and who wrote them."""
    found = []
    for two in figures.get("annotators", ()):
        if two["n"] >= FEWEST and two["kappa"] is not None and two["kappa"] < kappa:
            names = " and ".join(two["annotators"])
            why = f"{names} agree on {two['raw']:.0%} of {two['n']} pairs, kappa {two['kappa']:.2f}: little more than chance"
            fix = "write down what makes an answer better, and have these pairs judged again"
            found.append(Finding(row_id=None, code=NoteCode.ANNOTATORS_DISAGREE, severity="warn", why=why, fix=fix))
    written = figures.get("generators", {})
    logged = sum(written.values())
    if policy is not None and logged >= FEWEST and written.get(policy, 0) < on_policy * logged:
        why = f"{policy} wrote the answers of {written.get(policy, 0)} of {logged} pairs"
        fix = "fine-tune on the chosen answers first (orpo does both at once), or have the model write its own pairs"
        found.append(Finding(row_id=None, code=NoteCode.OFF_POLICY, severity="warn", why=why, fix=fix))
    return found


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
