"""Length outliers and other languages (MISSION D4)."""

from __future__ import annotations

import pytest

from planish.checks import language, lengths
from planish.data.table import Table
from planish.errors import InputError
from planish.rows import LabelRow, NoteCode, Origin, PromptCompletionRow, Row

WHERE = Origin(file="f", line=1, sha256="")


def _pairs(*pairs: tuple[str, str]) -> Table:
    return Table.of(PromptCompletionRow(id=str(n), origin=WHERE, prompt=prompt, completion=answer) for n, (prompt, answer) in enumerate(pairs))


def test_an_answer_a_hundred_times_as_long() -> None:
    """Answers of 16 characters, one of 1,600: log2 100 = 6.64, the spread is taken as 0.75, z = 8.9. One of 160: log2 10 = 3.32, z = 4.4, none."""
    usual = [("a question of mine", "x" * 16)] * 30
    result = lengths.check(_pairs(*usual, ("a question of mine", "x" * 1600), ("a question of mine", "x" * 160)))
    assert [(finding.row_id, finding.code) for finding in result.findings] == [("30", NoteCode.LENGTH_OUTLIER)]
    assert "z +8.9" in result.findings[0].why
    assert result.figures["outliers"] == {"answer_long": 1}
    assert result.figures["answer"]["median"] == 16
    assert [finding.row_id for finding in lengths.check(_pairs(*usual, ("q", "x" * 160)), z=4.0).findings] == ["30", "30"]


def test_the_spread_of_the_data_counts() -> None:
    """Lengths 2, 4, 8, .. 2^20 have a median of 2^10 and a spread of 1.4826 * 5 = 7.4 of log2: nothing is an outlier among them."""
    assert not lengths.check(_pairs(*((("q" * 9, "x" * 2 ** (n % 10 + 1))) for n in range(40)))).findings


def test_few_rows_are_not_judged_and_a_label_has_no_length() -> None:
    assert not lengths.check(_pairs(*[("q", "x" * 9)] * 5, ("q", "x" * 9000))).findings
    figures = lengths.check(Table.of(LabelRow(id=str(n), origin=WHERE, text="t", label="l") for n in range(3))).figures
    assert "answer" not in figures
    assert lengths.check(Table.of([])).figures["outliers"] == {}


ENGLISH = [
    ("How long does it take to boil an egg so that the yolk stays soft?", "Lower it into boiling water and wait for about six minutes."),
    ("What is the best way to keep bread fresh for several days?", "Put it into a linen bag and keep that in a wooden box."),
    ("Why does the sky look blue on a clear summer day?", "Because the air scatters the short wavelengths more than the long ones."),
    ("Where should I store the potatoes during the winter?", "In a cool and dark cellar, away from onions and apples."),
    ("Who wrote the book that you are reading at the moment?", "It was written by a retired teacher from the north of Scotland."),
]
GERMAN = ("Wie lange muss der Kuchen im Ofen bleiben, damit er nicht mehr feucht ist?", "Etwa fünfundvierzig Minuten, danach prüfst du ihn mit einem Stäbchen.")
SPANISH = "Guárdalo en una bolsa de tela dentro de una caja de madera, y no lo pongas nunca en la nevera."


def test_rows_in_another_language_than_nearly_all() -> None:
    result = language.check(_pairs(*ENGLISH, GERMAN, *ENGLISH[:3], (ENGLISH[1][0], SPANISH)))
    assert [(finding.row_id, finding.code) for finding in result.findings] == [("5", NoteCode.LANGUAGE_OTHER), ("9", NoteCode.LANGUAGE_OTHER)]
    assert '"de"' in result.findings[0].why
    assert result.figures["expected"] == ["en"]
    assert result.figures["texts"] == {"en": 17, "de": 2, "es": 1}


def test_expected_languages_are_none_of_the_others() -> None:
    assert not language.check(_pairs(*ENGLISH, GERMAN), expected=["en", "de"]).findings
    assert {finding.row_id for finding in language.check(_pairs(*ENGLISH, GERMAN), expected=["de"]).findings} == {"0", "1", "2", "3", "4"}


def test_data_of_several_languages_has_no_other() -> None:
    result = language.check(_pairs(*ENGLISH[:2], GERMAN, GERMAN))
    assert not result.findings
    assert result.figures["expected"] == []


@pytest.mark.parametrize(
    "text", ["Lisbon", '{"day": 1, "orders": [1, 2], "left": {"day": 2}}', "4539 1488 0343 6468 4539 1488 0343 6468", "for (i = 0; i < 9; i++) { print(i); }"]
)
def test_short_texts_numbers_and_code_are_not_judged(text: str) -> None:
    rows: list[Row] = [LabelRow(id="1", origin=WHERE, text=text, label="l")]
    result = language.check(Table.of(rows), expected=["fi"])
    assert not result.findings
    assert result.figures["rows_not_judged"] == 1


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(InputError, match='"english" is no language code'):
        language.check(_pairs(*ENGLISH), expected=["english"])
