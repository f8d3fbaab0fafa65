"""Questions whose numbers or fillings differ are different questions; only what repeats them is a leak or a copy (MISSION D6, D9)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from planish.checks import leakage, near_duplicates
from planish.data.finding import CheckResult
from planish.data.table import Table
from planish.rows import ChatRow, LabelRow, Message, Origin, Row, TextRow

ORIGIN = Origin(file="f", line=1, sha256="")
FORMS = (
    "What is {}?",
    "State the final answer to the following arithmetic problem: {} =",
    "Calculate {}. Please answer with the number alone.",
    "Solve the following problem step by step and keep in mind that the order of operations counts. Put the final answer, and nothing else, "
    "on the last line of your reply, without units and without thousands separators. The problem is: {} = ?",
)


def _chat(id: str, question: str, answer: str) -> ChatRow:
    return ChatRow(id=id, origin=ORIGIN, messages=(Message(role="user", content=question), Message(role="assistant", content=answer)))


def _label(id: str, text: str, label: str) -> LabelRow:
    return LabelRow(id=id, origin=ORIGIN, text=text, label=label)


def _leaks(train: Sequence[Row], gold: Sequence[Row]) -> CheckResult:
    split = {row.id: name for name, rows in (("train", train), ("gold", gold)) for row in rows}
    return leakage.check(Table.of([*train, *gold]), split)


def _leaking(train: Sequence[Row], gold: Sequence[Row]) -> list[str | None]:
    return [finding.row_id for finding in _leaks(train, gold).findings]


def _sums(n: int, form: str) -> list[tuple[str, str]]:
    """`n` different sums with their results."""
    rng, found = random.Random(7), dict[str, str]()
    while len(found) < n:
        left, sign, right = rng.randrange(1, 60), rng.choice("+-*"), rng.randrange(1, 60)
        result = {"+": left + right, "-": left - right, "*": left * right}[sign]
        found[form.format(f"{left} {sign} {right}")] = str(result)
    return list(found.items())


@pytest.mark.parametrize("form", FORMS)
def test_of_500_sums_only_the_copies_leak(form: str) -> None:
    """MISSION D9: 400 sums for training and 100 for gold share their whole wording, and many share their result. Refused are the six rows that ask a gold sum: three
    as it stands, three in capitals."""
    rows = _sums(500, form)
    gold = [_chat(f"g{number}", *row) for number, row in enumerate(rows[:100])]
    train = [_chat(f"t{number}", *row) for number, row in enumerate(rows[100:])]
    copies = [_chat(f"c{number}", question if number < 3 else f"{question.upper()} ", answer) for number, (question, answer) in enumerate(rows[:6])]
    assert _leaking([*train, *copies], gold) == [f"c{number}" for number in range(6)]


@pytest.mark.parametrize("form", FORMS)
def test_of_500_sums_only_the_copies_are_near_duplicates(form: str) -> None:
    """MISSION D6: sums with one result are no copies of each other. Three rows repeat one with other punctuation."""
    rows = [_chat(str(number), *row) for number, row in enumerate(_sums(500, form))]
    copies = [_chat(f"c{number}", f"{rows[number].messages[0].content}!?", rows[number].messages[1].content) for number in range(3)]
    found = near_duplicates.check(Table.of([*rows, *copies])).findings
    assert [(finding.row_id, finding.see) for finding in found] == [("c0", "0"), ("c1", "1"), ("c2", "2")]


def test_signs_count_although_words_have_none() -> None:
    gold = [_chat("g", "Work out with pen and paper how much 84 - 12 is, please", "72")]
    train = [_chat(sign, f"Work out with pen and paper how much 84 {sign} 12 is, please", answer) for sign, answer in (("+", "96"), ("*", "1008"), ("-", "72"))]
    assert _leaking(train, gold) == ["-"]


def test_formulas_of_logic_differ_by_their_signs() -> None:
    """Without them (P and Q) is (P or Q), in question and answer."""
    question = "Here are the premises of a small exercise in logic. What follows from them? A: (P {} Q), B: ¬Q"
    rows = [_chat(str(number), question.format(sign), f"(P {sign} P)") for number, sign in enumerate("∨∧→")]
    assert not near_duplicates.check(Table.of(rows)).findings
    assert not _leaks(rows[1:], rows[:1]).findings


def test_numbers_that_do_not_change_the_answer_hide_no_leak() -> None:
    """An order number: every row of the wording has one label, or one answer that repeats the number."""
    text = "my order {} has still not arrived although it was promised for last week"
    assert _leaking([_label("t", text.format(4712), "delivery")], [_label("g", text.format(4711), "delivery")]) == ["t"]
    train, gold = (_chat(id, text.format(number), f"Order {number} is on its way.") for id, number in (("t", 4712), ("g", 4711)))
    assert _leaking([train], [gold]) == ["t"]
    labelled = Table.of([_label(str(number), text.format(number), "delivery") for number in (4711, 4712)])
    assert [finding.row_id for finding in near_duplicates.check(labelled).findings] == ["4712"]


def test_yes_and_no_depend_on_the_number_where_a_wording_has_both() -> None:
    """Odd numbers share their answer with many rows; what tells that the number decides are the even ones."""
    question = "Look at the following number and say whether it can be divided by two without any rest: {}"
    rows = [_label(str(number), question.format(number), "yes" if number % 2 == 0 else "no") for number in range(100, 160)]
    assert not _leaks(rows[12:], rows[:12]).findings
    assert not near_duplicates.check(Table.of(rows)).findings
    assert _leaking([*rows[12:], _label("copy", rows[3].text.upper(), "no")], rows[:12]) == ["copy"]


def test_a_short_sum_within_a_longer_row_leaks_and_another_one_does_not() -> None:
    gold = [_chat("g", "Please tell me how much is 12 + 7 in all", "19")]
    train = [
        _chat("same", "Before lunch at 12:30 one more: please tell me how much is 12 + 7 in all, then rest for 5 minutes", "It is 19."),
        _chat("other", "Before lunch at 12:30 one more: please tell me how much is 12 - 7 in all, then rest for 5 minutes", "It is 5."),
    ]
    assert _leaking(train, gold) == ["same"]
    assert _leaking([TextRow(id="d", origin=ORIGIN, text=f"{train[0].messages[0].content} Nobody knew.")], gold) == ["d"]


def test_a_long_template_with_one_word_to_fill_in_makes_no_leaks() -> None:
    """Forty words of instruction, and one word that is the question: J of word 5-grams is 36 of 38. A copy is still found, and a changed filling of a rare template."""
    instruction = " ".join(f"please{number}" for number in range(40)).replace("please", "rule")
    rows = [_chat(str(number), f"{instruction} word{chr(97 + number // 26)}{chr(97 + number % 26)}x", f"answer {number}") for number in range(100)]
    assert not _leaks(rows[8:], rows[:8]).findings
    assert _leaking([*rows[8:], _chat("copy", rows[2].messages[0].content.upper(), "another answer")], rows[:8]) == ["copy"]
    assert _leaking(rows[8:9], rows[:8]) == ["8"]


def test_a_template_that_few_gold_rows_have_is_known_by_the_training_rows() -> None:
    """An instruction of 20 words before every question: 4 gold rows have it, too few to be a template by themselves, and 60 training rows. A training row that
    shares 13 words of one question still leaks."""
    instruction = " ".join(f"rule{chr(97 + number)}" for number in range(20))
    rows = [_chat(str(number), f"{instruction} " + " ".join(f"w{number}x{place}" for place in range(15)), "ok then") for number in range(64)]
    leak = _chat("leak", "and so on " + " ".join(f"w1x{place}" for place in range(13)) + " and so on", "ok then")
    assert _leaking([*rows[4:], leak], rows[:4]) == ["leak"]


def test_the_fix_says_what_to_do_when_most_rows_leak() -> None:
    rows = _sums(40, FORMS[1])
    gold, train = ([_chat(f"{name}{number}", *row) for number, row in enumerate(rows)] for name in "gt")
    found = _leaks(train, gold).findings
    assert len(found) == 40
    assert {finding.fix for finding in found} == {leakage.MOST}
    assert "give it as one file" in leakage.MOST
    few = _leaks([*train[:1], *(_chat(f"c{number}", f"Who is number {number} in the list of names?", "Nobody.") for number in range(9))], gold).findings
    assert [finding.fix for finding in few] == ["leave it out of training"]


def test_thirteen_words_of_which_twelve_are_a_template_are_no_leak() -> None:
    """Fourteen words that all rows begin with, and a name that one gold row and one training row share: 13 words in a row, of which one is their own."""
    begin = " ".join(f"rule{chr(97 + number)}" for number in range(14))
    rows = [_chat(str(number), f"{begin} w{number} " + " ".join(f"v{number}x{place}" for place in range(20)), "ok then") for number in range(40)]
    same = _chat("same", f"{begin} w3 " + " ".join(f"other{place}" for place in range(20)), "ok then")
    assert not _leaks([*rows[8:], same], rows[:8]).findings
