"""Rows of an earlier data set found again in a file that has changed since, by hand (MISSION D8)."""

from __future__ import annotations

from planish.data.split import SplitName
from planish.data.split_kept import carried
from planish.data.table import Keys

BEFORE: dict[str, tuple[str, SplitName]] = {"0": ("a", "train"), "1": ("b", "gold"), "2": ("c", "validation"), "3": ("d", "gold")}


def _row(row_id: str, question: str, answer: str = "yes", group: str | None = None) -> Keys:
    asked, said = question.encode(), answer.encode()
    return Keys(row_id, "label", group, answer, 1, asked + said, asked, said)


def _sides(*now: Keys) -> dict[str, str]:
    """The sides of these rows after BEFORE, where row 0 asks a and is trained on, 1 asks b and is gold, 2 asks c, 3 asks d and is gold."""
    return dict(carried(now, [_row(row_id, question) for row_id, (question, _) in BEFORE.items()], {row_id: side for row_id, (_, side) in BEFORE.items()}))


def test_d8_ids_that_count_lines_follow_their_rows() -> None:
    """The file reversed, its lines numbered anew, one row more at its end: b, now row 2, is gold as before, and so is d, now row 0."""
    now = (_row("0", "d"), _row("1", "c"), _row("2", "b"), _row("3", "a"), _row("4", "e"))
    assert _sides(*now) == {"0": "gold", "1": "validation", "2": "gold", "3": "train"}


def test_d8_a_row_that_is_gone_hands_its_place_to_no_other() -> None:
    """Row a is gone and the rest moved up: id 0 is b's now, and gold; id 3 belongs to nobody."""
    assert _sides(_row("0", "b"), _row("1", "c"), _row("2", "d")) == {"0": "gold", "1": "validation", "2": "gold"}


def test_d8_edited_rows_stay_where_they_were() -> None:
    """Of b the answer was edited and the id is another; of c the question under the same id: both are the rows they were."""
    assert _sides(_row("0", "a"), _row("9", "b", "no"), _row("2", "c, in other words"), _row("3", "d")) == {
        "0": "train",
        "9": "gold",
        "2": "validation",
        "3": "gold",
    }


def test_d8_an_earlier_row_is_found_once() -> None:
    """A copy of b beside b is a new row, whatever id it took: id 0 asked a, which is gone, and would otherwise pull b to both sides. Another group under an id is a new row too."""
    assert _sides(_row("1", "b"), _row("0", "b"), _row("7", "b")) == {"1": "gold"}
    assert _sides(_row("2", "x", group="south"), _row("1", "b")) == {"1": "gold"}
