"""Questions that the package reasoning-gym makes from a seed, each with its right answer and three wrong ones that its own verifier refuses (MISSION C4).

The sets are those that a model of 135M parameters answers above the quarter that guessing reaches: a model at chance has nothing to forget there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from planish.errors import InputError, Problem

WRONG = 3
SEED = 7
TRIES = 60
"""Wrong answers drawn for a question before it is given up: one of few words has too few orders."""

Wrong = Callable[[str, random.Random], str]


def _other_order(answer: str, draw: random.Random) -> str:
    words = answer.split()
    return " ".join(draw.sample(words, len(words)))


def _swapped_letters(answer: str, draw: random.Random) -> str:
    """Two neighbouring letters of one word change places."""
    at = draw.randrange(max(1, len(answer) - 1))
    return answer if " " in answer[at : at + 2] else answer[:at] + answer[at : at + 2][::-1] + answer[at + 2 :]


def _slip(answer: str, draw: random.Random) -> str:
    """A number that a slip would give: a little off, by ten, or of the other sign."""
    value = int(answer)
    return str(draw.choice([value + step for step in (-10, -2, -1, 1, 2, 10)] + [-value]))


SETS: dict[str, tuple[dict[str, Any], Wrong]] = {
    "sentence_reordering": ({"max_words_in_sentence": 10}, _other_order),
    "letter_jumble": ({"min_words": 3, "max_words": 6}, _swapped_letters),
    "caesar_cipher": ({"max_words": 8}, _swapped_letters),
    "number_sequence": ({}, _slip),
}
"""reasoning-gym's name of each set, its settings, and what makes a wrong answer of the right one."""


def questions(count: int) -> list[tuple[str, tuple[str, ...]]]:
    """`count` questions in equal parts from each set, each with its answers, the right one first; the same on every call.

    Raises InputError when the package is absent.
    """
    try:
        import reasoning_gym  # type: ignore[import-untyped]
    except ImportError:
        fix = "pip install --no-deps reasoning-gym==0.1.25 with what it needs (docs/general.md), or take reasoning out of evaluate.general"
        raise InputError(Problem("evaluate.general: reasoning", "its package is not installed", fix)) from None
    found: list[tuple[str, tuple[str, ...]]] = []
    for place, (name, (settings, wrong)) in enumerate(SETS.items()):
        share = count // len(SETS) + (place < count % len(SETS))
        # Twice as many as are wanted are drawn, because a question without three wrong answers is given up.
        data = reasoning_gym.create_dataset(name, size=2 * share, seed=SEED, **settings)
        answered = ((entry["question"].strip(), _answers(data, entry, wrong, random.Random(index))) for index, entry in enumerate(data))
        found += [(question, answers) for question, answers in answered if len(answers) == 1 + WRONG][:share]
    return found


def _answers(data: Any, entry: dict[str, Any], wrong: Wrong, draw: random.Random) -> tuple[str, ...]:
    """The right answer and up to three wrong ones; the set's own verifier says which is which."""
    answers = [str(entry["answer"])]
    for _ in range(TRIES):
        other = wrong(answers[0], draw)
        if other not in answers and data.score_answer(other, entry) < 1 and len(answers) <= WRONG:
            answers.append(other)
    return tuple(answers)
