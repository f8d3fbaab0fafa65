"""The answer audit (MISSION D4)."""

from __future__ import annotations

from typing import Any

import pytest

from planish.checks import answers
from planish.data.table import Table
from planish.rows import ChatRow, ExtractionRow, LabelRow, Message, NoteCode, Origin, PromptCompletionRow, Row

WHERE = Origin(file="f", line=1, sha256="")


def _rows(*said: str) -> list[Row]:
    return [PromptCompletionRow(id=str(n), origin=WHERE, prompt=f"question {n}", completion=answer) for n, answer in enumerate(said)]


def _said(rows: list[Row]) -> list[tuple[str | None, Any]]:
    return [(finding.row_id, finding.code) for finding in answers.check(Table.of(rows)).findings]


@pytest.mark.parametrize(
    "refusal",
    [
        "I'm sorry, but I can't help with that request.",
        "As an AI language model, I am unable to answer this question.",
        "I cannot assist with that.",
        "I’m afraid I won’t do this for you.",
        "My guidelines do not allow me to say.",
    ],
)
def test_refusals(refusal: str) -> None:
    assert _said(_rows(refusal)) == [("0", NoteCode.REFUSAL)]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry to hear that; your refund is on its way.",
        "You cannot park there.",
        "The shop is unable to ship batteries by air.",
        "She said: I can't come on Sunday.",
    ],
)
def test_polite_and_negative_answers_are_no_refusals(answer: str) -> None:
    assert not _said(_rows(answer))


@pytest.mark.parametrize(
    "cut",
    [
        "Break the bulb into cloves and press each one into loose soil and then cover the",
        "Sand, soda and lime are melted; the mass is then blown, rolled or poured,",
        "Here is one:\n```python\nfor number in range(10):\n    print(",
        '{"name": "Alma", "firm": "North',
        "It opens at nine and closes at (",
    ],
)
def test_answers_that_were_cut(cut: str) -> None:
    assert _said(_rows(cut)) == [("0", NoteCode.CUT_OFF)]


@pytest.mark.parametrize(
    "whole", ["Lisbon", "3.14159", "git reset --soft HEAD~1", "never[] until something is pushed", "```\nx = 1\n```", "a, b and c", "[1, 2]", "of the"]
)
def test_answers_that_end_where_they_should(whole: str) -> None:
    assert not _said(_rows(whole))


def test_every_trained_turn_of_a_dialogue_is_audited_and_none_that_is_not_trained() -> None:
    turns = [("user", "a"), ("assistant", "I can't help with that."), ("user", "b"), ("assistant", "Fine.")]
    for weight, expected in ((None, [("1", NoteCode.REFUSAL)]), (0.0, [])):
        messages = tuple(Message(role=role, content=text, weight=weight if role == "assistant" else None) for role, text in turns)  # type: ignore[arg-type]
        assert _said([ChatRow(id="1", origin=WHERE, messages=messages)]) == expected


def test_prose_among_json_and_json_among_prose() -> None:
    """18 of 20 are JSON, exactly nine of ten: the two of prose are named. Below 20 answers nothing is."""
    rows = _rows(*['{"answer": 1}'] * 18, "It is one.", "one")
    assert _said(rows) == [("18", NoteCode.STYLE), ("19", NoteCode.STYLE)]
    assert not _said(rows[1:])
    assert _said(_rows(*["It is one."] * 19, '{"answer": 1}')) == [("19", NoteCode.STYLE)]
    assert not _said(_rows(*["It is one."] * 15, *['{"answer": 1}'] * 5))


def test_a_short_answer_that_is_nearly_always_written_otherwise() -> None:
    assert _said(_rows(*["Yes."] * 20, "yes", *["No."] * 3, "no")) == [("20", NoteCode.STYLE)]


def test_a_field_that_the_text_does_not_say() -> None:
    """`firm` is copied out of the text in 9 of 10 rows; `mood` never is, so it is a judgement and not held against the row."""
    rows: list[Row] = [
        ExtractionRow(id=str(n), origin=WHERE, text=f"Alma paid 1,2{n}0 euros to Firm{n}.", fields={"firm": f"firm{n}", "paid": 1200 + 10 * n, "mood": "calm"})
        for n in range(9)
    ]
    rows += [ExtractionRow(id="9", origin=WHERE, text="Alma has left.", fields={"firm": "Northgate", "paid": None, "mood": "calm"})]
    (finding,) = answers.check(Table.of(rows)).findings
    assert (finding.row_id, finding.code) == ("9", NoteCode.UNGROUNDED)
    assert 'firm "Northgate"' in finding.why


def test_labels_have_no_style() -> None:
    assert not _said([LabelRow(id=str(n), origin=WHERE, text="t", label="the" if n else "a") for n in range(30)])


def test_d4_50_random_answers_are_shown() -> None:
    """MISSION D4: shows 50 random answers; the same ones for the same seed, all of them when there are fewer."""
    rows = Table.of(_rows(*[f"answer {n}." for n in range(200)]))
    shown = answers.check(rows).figures["shown"]
    assert len(shown) == len({each["row"] for each in shown}) == 50
    assert shown == answers.check(rows).figures["shown"] != answers.check(rows, seed=1).figures["shown"]
    assert shown[0] == {"row": shown[0]["row"], "prompt": f"question {shown[0]['row']}", "answer": f"answer {shown[0]['row']}."}
    assert len(answers.check(Table.of(_rows("a.", "b."))).figures["shown"]) == 2
