"""Tidied prompts (MISSION D4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.data.clean import STEPS, Change, cleaned
from planish.errors import InputError
from planish.rows import (
    ChatRow,
    Entity,
    ExtractionRow,
    LabelRow,
    Message,
    Origin,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    Row,
    StepsRow,
    SummaryRow,
    TextRow,
    UnpairedRow,
)

WHERE = Origin(file="f", line=1, sha256="")
DIRTY = "  cafe\u0301\u200b \x07bar\u00a0baz  \r\n\n\n\n  end "
CLEAN = "café bar baz\n\n  end"
ASKED, SAID = Message(role="user", content=DIRTY), Message(role="assistant", content=DIRTY)


def test_what_each_step_does() -> None:
    """NFC joins e and its accent; a bell and a zero-width space go; the no-break space is plain, line ends are bare, one empty line stays, indentation stays."""
    assert STEPS["nfc"]("e\u0301") == "é"
    assert STEPS["control"]("a\u200b\x07b\tc\nd") == "ab\tc\nd"
    assert STEPS["whitespace"](" a\u00a0b  \r\n\r\n\r\n\n  c\n") == "a b\n\n  c"
    row, changes = cleaned(TextRow(id="1", origin=WHERE, text=DIRTY))
    assert row == TextRow(id="1", origin=WHERE, text=CLEAN)
    assert changes == (Change("text", DIRTY, CLEAN),)


def test_the_steps_are_those_asked_for() -> None:
    row, changes = cleaned(TextRow(id="1", origin=WHERE, text=" e\u0301 "), ["nfc"])
    assert row == TextRow(id="1", origin=WHERE, text=" é ")
    assert changes[0].diff().splitlines() == ["--- text before", "+++ text after", "@@ -1 +1 @@", "- e\\u0301 ", "+ \\xe9 "]
    with pytest.raises(InputError, match='unknown step "nfk"'):
        cleaned(row, ["nfk"])


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        (LabelRow(id="1", origin=WHERE, text=DIRTY, label=DIRTY), {"text": CLEAN}),
        (PromptCompletionRow(id="1", origin=WHERE, prompt=DIRTY, completion=DIRTY), {"prompt": CLEAN}),
        (SummaryRow(id="1", origin=WHERE, document=DIRTY, summary=DIRTY), {"document": CLEAN}),
        (QuestionRow(id="1", origin=WHERE, question=DIRTY, answer=DIRTY, documents=(DIRTY,)), {"question": CLEAN, "documents": (CLEAN,)}),
        (StepsRow(id="1", origin=WHERE, prompt=DIRTY, completions=(DIRTY,), labels=(True,)), {"prompt": CLEAN}),
        (ExtractionRow(id="1", origin=WHERE, text=DIRTY, fields={"x": DIRTY}), {"text": CLEAN}),
        (ExtractionRow(id="1", origin=WHERE, text=DIRTY, entities=(Entity(type="x", start=2, end=4),)), {}),
        (ChatRow(id="1", origin=WHERE, messages=(ASKED, SAID)), {"messages": (Message(role="user", content=CLEAN), SAID)}),
        (PreferenceRow(id="1", origin=WHERE, prompt=(ASKED,), chosen=(SAID,), rejected=(SAID,)), {"prompt": (Message(role="user", content=CLEAN),)}),
        (UnpairedRow(id="1", origin=WHERE, prompt=(ASKED,), completion=(SAID,), label=True), {"prompt": (Message(role="user", content=CLEAN),)}),
    ],
)
def test_d4_answers_are_never_rewritten(row: Row, fields: dict[str, object]) -> None:
    """MISSION D4, Bad: answers are never rewritten automatically. Of every shape only what is asked is tidied; a text that spans point into stays."""
    made, changes = cleaned(row)
    assert made == row.model_copy(update=fields)
    assert bool(changes) == bool(fields)


def test_a_clean_row_is_the_row_and_a_prompt_never_becomes_empty() -> None:
    row = TextRow(id="1", origin=WHERE, text="fine")
    assert cleaned(row) == (row, ())
    empty = TextRow(id="1", origin=WHERE, text=" \u200b\n")
    assert cleaned(empty) == (empty, ())


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once, _ = cleaned(TextRow(id="1", origin=WHERE, text=text))
    assert cleaned(once) == (once, ())
