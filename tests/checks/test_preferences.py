"""Preference data that teaches something else, on both sides of every bound."""

from __future__ import annotations

import random

import pytest

from planish.checks.preferences import check
from planish.data.table import Table
from planish.evidence.agreement import beyond_chance, cohen_kappa
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
    rows = [pair(n, *(("a b c d", "a b") if n < longer else ("a b", "a b c d")), f"why {n}?") for n in range(20)]
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


def columns(row: PreferenceRow, **extra: str) -> PreferenceRow:
    return row.model_copy(update={"extra": extra})


def test_p1_kappa() -> None:
    """P1: 85 % raw agreement where chance gives .5: (.85 - .5) / .5 = .70."""
    assert beyond_chance(0.85, 0.5) == pytest.approx(0.70)
    assert beyond_chance(1.0, 1.0) is None


@pytest.mark.parametrize("seed", range(5))
def test_p1_kappa_is_scikit_learns(seed: int) -> None:
    """P1 Proof: 60 verdicts of two annotators out of three kinds."""
    from sklearn.metrics import cohen_kappa_score

    draw = random.Random(seed)
    first = [draw.choice("aab") for _ in range(60)]
    second = [mark if draw.random() < 0.7 else draw.choice("abc") for mark in first]
    assert cohen_kappa(first, second).kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


@pytest.mark.parametrize(("turned", "named"), [(3, False), (8, True)])
def test_p1_annotators_who_hardly_agree_are_named(turned: int, named: bool) -> None:
    """P1: ann and ben judge the same 20 pairs and differ in 3 (85 %) or in 8 (60 %, kappa about .2). Each pair that they turn round is a contradiction, in both rows."""
    rows = []
    for n in range(20):
        one, other = (f"good {n}", f"bad {n}") if n % 2 else (f"bad {n}", f"good {n}")
        rows.append(columns(pair(n, one, other, f"q{n}"), annotator="ann"))
        rows.append(columns(pair(100 + n, *((other, one) if n < turned else (one, other)), f"q{n}"), annotator="ben"))
    result = check(Table.of(rows))
    (two,) = result.figures["annotators"]
    assert (two["annotators"], two["n"], two["raw"]) == (["ann", "ben"], 20, 1 - turned / 20)
    codes = [finding.code for finding in result.findings]
    assert (NoteCode.ANNOTATORS_DISAGREE in codes) == named
    assert codes.count(NoteCode.CONTRADICTION) == result.figures["contradictions"] == 2 * turned
    assert ("p100", "p0") in {(finding.row_id, finding.see) for finding in result.findings}


def test_p1_ties_are_named_and_contradict_nothing() -> None:
    """P1: answers that differ in case and white space alone."""
    result = check(Table.of([pair(1, "Yes", " yes "), pair(2, "yes", "no")]))
    assert [(finding.row_id, finding.code) for finding in result.findings] == [("p1", NoteCode.TIE)]
    assert (result.figures["ties"], result.figures["contradictions"]) == (1, 0)


@pytest.mark.parametrize(("own", "named"), [(9, True), (10, False)])
def test_p1_answers_of_another_model_are_named(own: int, named: bool) -> None:
    """P1: of 20 logged pairs 9 (45 %) are the policy's own: named; 10 (50 %) are not below the bound. Without a policy to ask about there is only the count."""
    rows = Table.of([columns(pair(n, f"a {n}", f"b {n}", f"q{n}"), generator="mine" if n < own else "theirs") for n in range(20)])
    assert [finding.code for finding in check(rows, policy="mine").findings] == ([NoteCode.OFF_POLICY] if named else [])
    assert check(rows).findings == ()
    assert check(rows).figures["generators"] == {"mine": own, "theirs": 20 - own}


def test_p1_length_matched_pairs_are_counted_apart() -> None:
    """P1 Bad: 18 pairs of 4 against 2 words, one of 5 against 4 (25 %: matched), one of 4 against 5; of the two matched pairs one prefers the longer. 20 are not 200."""
    rows = [pair(n, "a b c d", "a b") for n in range(18)] + [pair(18, "a b c d e", "a b c d", "x"), pair(19, "a b c d", "a b c d f", "y")]
    figures = check(Table.of(rows)).figures
    assert figures["length_matched"] == {"pairs": 2, "better_is_longer": 0.5}
    assert figures["enough"] is False
