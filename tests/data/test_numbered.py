"""Which numbers a text holds, and how long it takes to find that out."""

from __future__ import annotations

import time

import pytest

from planish.data.numbered import numbers
from planish.rows import Origin, PromptCompletionRow


def _row(prompt: str, completion: str = "") -> PromptCompletionRow:
    return PromptCompletionRow(id="1", origin=Origin(file="f", line=1, sha256=""), prompt=prompt, completion=completion)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is 12 + 7?", ("12+7",)),
        ("What is 12+7", ("12+7",)),
        ("12 + 7 =", ("12+7",)),
        ("(1 + 2) * 3", ("(1+2)*3",)),
        ("1 + (2 * 3)", ("1+(2*3)",)),
        ("3 12 and 31 2", ("3", "12", "31", "2")),
        ("1,000 or 1000.50 or 2, 3", ("1000", "1000.50", "2", "3")),
        ("a 12-inch pipe", ("12",)),
        ("minus -5", ("-5",)),
        ("first 3\n- 4 second", ("3", "-4")),
        ("１２ ＋ ７", ("12+7",)),
        ("(P ∨ ¬Q) → R", ("∨¬→",)),
        ("no number - at all (really)", ()),
    ],
)
def test_numbers_with_the_signs_that_tie_them(text: str, found: tuple[str, ...]) -> None:
    assert numbers(_row(text)).asked == found


def test_an_answer_is_known_without_the_numbers_that_it_repeats() -> None:
    assert numbers(_row("Where is order 4711?", "Order 4711 comes in 3 days.")).answer == "order # comes in 3 days."


@pytest.mark.parametrize("part", ["-", "- ", "1", "1 ", "1,", "(", "a1"])
def test_a_million_characters_are_read_once(part: str) -> None:
    """A rule of a million dashes must not be tried from each of them anew: that would take hours."""
    began = time.process_time()
    numbers(_row(part * (1_000_000 // len(part)) + "x", "y"))
    assert time.process_time() - began < 5
