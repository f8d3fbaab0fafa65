"""The rules of examples/preferences/rewrites.py: what is wrong with a rewrite is told by rule, and the wordy sentence never brings a number in."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

OWN = "the battery lasts 7 days, and the screen is great."


@pytest.fixture(scope="module")
def rewrites() -> ModuleType:
    """The example's module, as its script finds it."""
    spec = importlib.util.spec_from_file_location("rewrites", Path(__file__).parents[2] / "examples" / "preferences" / "rewrites.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("rewrite", "tone", "wrong"),
    [
        (OWN, "positive", []),
        ("The screen is great, and the battery lasts 7 days", "positive", []),  # 10 words in another order and case
        (OWN, "negative", ["wrong tone"]),
        ("the battery lasts 8 days, and the screen is great.", "positive", ["number changed"]),
        ("the battery lasts days, and the screen is great.", "positive", ["number changed"]),
        ("the battery lasts 7 days.", "positive", ["words lost"]),  # screen and great
        ("the battery lasts 7 days, and the phone is great.", "positive", ["words lost", "words added"]),
        ("all in all the battery lasts 7 days, and the screen is great.", "positive", ["too long"]),  # 13 words of 10, none of four letters
        ("", "positive", ["number changed", "words lost"]),
    ],
)
def test_each_rule(rewrites: ModuleType, rewrite: str, tone: str, wrong: list[str]) -> None:
    """The reviewer's sentence has 10 words, the number 7, and the words battery, lasts, days, screen and great of four letters or more."""
    assert rewrites.faults(rewrite, OWN, "positive", tone) == wrong


def test_the_wordy_sentence_is_longer_and_has_the_same_numbers(rewrites: ModuleType) -> None:
    """Its phrases before and behind and in the middle hold no number; the same seed gives the same; the end mark stays at the end."""
    for seed in range(50):
        longer = rewrites.wordy(OWN, Random(seed))
        assert longer == rewrites.wordy(OWN, Random(seed))
        assert "too long" in rewrites.faults(longer, OWN, "positive", "positive")
        assert "number changed" not in rewrites.faults(longer, OWN, "positive", "positive")
        assert longer.endswith(".")


def test_a_spoilt_rewrite_breaks_a_rule(rewrites: ModuleType) -> None:
    """7 becomes 8; a sentence without a whole number keeps its phrases."""
    assert rewrites.spoilt(OWN, "longer") == "the battery lasts 8 days, and the screen is great."
    assert rewrites.spoilt("the screen is great.", "in my own humble opinion, the screen is great.") == "in my own humble opinion, the screen is great."
    assert rewrites.spoilt("it has 1.5 gb.", "well, it has 1.5 gb.") == "well, it has 1.5 gb."


def test_what_is_no_sentence_is_left_out(rewrites: ModuleType) -> None:
    """Markup, list numbers, one word, and more than twenty."""
    assert rewrites.usable(OWN)
    assert not any(map(rewrites.usable, ["i love it &amp; so do they all.", "2. it is a very nice phone.", "great.", "word " * 21]))
