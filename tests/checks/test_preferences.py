"""Preference data that teaches something else, on both sides of every bound."""

from __future__ import annotations

import pytest

from planish.checks.preferences import check
from planish.data.table import Table
from planish.rows import Message, NoteCode, Origin, PreferenceRow, UnpairedRow

ORIGIN = Origin(file="rows.jsonl", line=1, sha256="0")


def said(role: str, text: str) -> tuple[Message, ...]:
    return (Message(role=role, content=text),)  # type: ignore[arg-type]


def pair(number: int, better: str, worse: str, asked: str = "why?") -> PreferenceRow:
    return PreferenceRow(id=f"p{number}", origin=ORIGIN, prompt=said("user", asked), chosen=said("assistant", better), rejected=said("assistant", worse))


def single(number: int, good: bool) -> UnpairedRow:
    return UnpairedRow(id=f"u{number}", origin=ORIGIN, prompt=said("user", "why?"), completion=said("assistant", f"because {number}"), label=good)


@pytest.mark.parametrize(("longer", "named"), [(18, True), (17, False)])
def test_length_bias_needs_nine_of_ten(longer: int, named: bool) -> None:
    """Of 20 pairs 18 (90 %) have a better answer of 4 words against 2: named. With 17 (85 %) they are below `one_sided`.

    Mean words with 18: better (18*4 + 2*2)/20 = 3.8, worse (18*2 + 2*4)/20 = 2.2; they differ by 1.6 / 2.2 = 73 %.
    """
    rows = [pair(n, "a b c d", "a b") if n < longer else pair(n, "a b", "a b c d") for n in range(20)]
    result = check(Table.of(rows))
    assert [finding.code for finding in result.findings] == ([NoteCode.LENGTH_BIAS] if named else [])
    if named:
        assert result.figures["words"] == pytest.approx({"better": 3.8, "worse": 2.2, "better_is_longer": 0.9, "better_is_shorter": 0.1})


@pytest.mark.parametrize(("better", "worse", "named"), [(5, 4, True), (6, 5, False), (4, 5, True)])
def test_a_small_difference_is_no_bias(better: int, worse: int, named: bool) -> None:
    """5 words against 4 differ by 25 %, 6 against 5 by 20 %; a bias towards the shorter answer is one too."""
    rows = [pair(n, "w " * better, "w " * worse) for n in range(20)]
    assert bool(check(Table.of(rows)).findings) == named


@pytest.mark.parametrize(("bad", "named"), [(0, True), (1, True), (2, False), (18, False), (19, True)])
def test_judged_answers_need_both_kinds(bad: int, named: bool) -> None:
    """1 bad answer of 20 is 5 %, 2 are 10 %: not below `rare`."""
    rows = [single(n, n >= bad) for n in range(20)]
    assert [finding.code for finding in check(Table.of(rows)).findings] == ([NoteCode.CLASS_IMBALANCE] if named else [])


def test_fewer_than_twenty_rows_say_nothing() -> None:
    """19 one-sided pairs and 19 good answers."""
    rows = [pair(n, "a b c d", "a") for n in range(19)] + [single(n, True) for n in range(19)]
    assert check(Table.of(rows)).findings == ()


@pytest.mark.parametrize(("length", "named"), [(39, False), (40, True)])
def test_a_long_question_may_not_stand_in_its_answer(length: int, named: bool) -> None:
    """Case and white space aside, as everywhere; a worse answer that repeats it is not learned."""
    asked = "x" * (length - 1) + "?"
    rows = [pair(1, f"You ask: {asked.upper()} Well.", "no", asked), pair(2, "no", f"You ask: {asked}", asked)]
    assert [finding.row_id for finding in check(Table.of(rows)).findings] == (["p1"] if named else [])
