"""Damaged and empty text (MISSION D4)."""

from __future__ import annotations

import pytest

from planish.checks import text
from planish.data.damage import mojibake, unprintable
from planish.data.table import Table
from planish.rows import NoteCode, Origin, PromptCompletionRow, TextRow

WHERE = Origin(file="f", line=1, sha256="")


def _codes(answer: str, prompt: str = "Where is it?") -> list[NoteCode]:
    rows = Table.of([PromptCompletionRow(id="1", origin=WHERE, prompt=prompt, completion=answer)])
    return [finding.code for finding in text.check(rows).findings]  # type: ignore[misc]


@pytest.mark.parametrize("right", ["café", "naïve – “so it is”", "Привет, мир", "Ελληνικά", "日本語のテキスト", "😀 fine", "5 €", "Ça été «CAFÉ»"])
def test_text_that_was_decoded_with_the_wrong_table(right: str) -> None:
    """UTF-8 read as Latin-1 is found in every script; the right text is not. `café` becomes `cafÃ©`: C3 A9 are Ã and ©."""
    assert not mojibake(right)
    assert mojibake(right.encode().decode("latin-1"))


def test_windows_tables_too() -> None:
    """â€™ is E2 80 99, the apostrophe, read as Windows-1252."""
    assert mojibake("it’s “fine” – café".encode().decode("cp1252", "ignore")) == ["â€™", "â€œ", "â€“", "Ã©"]


def test_lost_characters() -> None:
    assert mojibake("caf\ufffd \ufffd") == ["\ufffd", "\ufffd"]
    assert _codes("At the caf\ufffd.") == [NoteCode.MOJIBAKE]


@pytest.mark.parametrize("bad", ["\x08", "\x1b[31m", "\x00", "\x7f", "\x9b", "\u200b", "\ufeff", "\u202e", "a\u200db"])
def test_characters_that_cannot_be_seen(bad: str) -> None:
    assert unprintable(f"x {bad}")
    assert _codes(f"It is{bad} here.") == [NoteCode.CONTROL_CHARACTERS]


@pytest.mark.parametrize("good", ["a\tb\r\nc", "👩\u200d🔬", "می\u200cخواهم", "क्\u200dष", "naïve"])
def test_what_belongs_to_a_script_is_no_damage(good: str) -> None:
    assert not unprintable(good)
    assert not _codes(good)


@pytest.mark.parametrize(
    "stock",
    [
        "As an AI language model, I have no taste.",
        "I'm just an AI, but soup is nice.",
        "Soup. All rights reserved.",
        "Dear [insert name], soup is ready.",
        "We use cookies.",
    ],
)
def test_stock_phrases(stock: str) -> None:
    assert _codes(stock) == [NoteCode.BOILERPLATE]


def test_a_stock_phrase_in_the_prompt_is_the_users_own() -> None:
    assert not _codes("It says that you may refuse.", prompt="What does 'we use cookies' mean, as an AI language model sees it?")


def test_an_answer_that_goes_round_in_circles() -> None:
    assert _codes("\n".join(["We meet at the harbour at nine."] * 5)) == [NoteCode.REPETITION]
    assert not _codes("\n".join(["We meet at the harbour at nine."] * 4))
    assert not _codes("Row, row, row your boat. " * 2)


def test_documents_are_looked_at_as_a_whole_and_shared_sentences_are_counted() -> None:
    rows = [TextRow(id="1", origin=WHERE, text="A page. All rights reserved.")]
    assert [finding.code for finding in text.check(Table.of(rows)).findings] == [NoteCode.BOILERPLATE]
    closing = "Is there anything else you need?"
    answers = [PromptCompletionRow(id=str(n), origin=WHERE, prompt="p", completion=f"The answer is {n}. {closing}") for n in range(3)]
    assert text.check(Table.of(answers)).figures["shared_sentences"] == [{"sentence": closing, "answers": 3}]
