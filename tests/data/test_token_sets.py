"""Sets of ids: what is written is read, and ids that come together cost less."""

from __future__ import annotations

from dataclasses import replace
from math import comb, log2

import numpy as np
import pytest

from planish.data.rans import Ints, Reader, Writer
from planish.data.token_sets import SIDES, Tree, fit_rows, kinds_of

VOCABULARY = 600


def tree_of(counts: Ints, sets: Ints, known: Ints) -> tuple[Tree, Ints, Ints]:
    """A tree learned from the sets, and sets and words as its places."""
    ids = np.arange(VOCABULARY)
    weights = np.bincount(sets, minlength=VOCABULARY) + 1
    kinds, number = kinds_of(VOCABULARY, counts, sets)
    tree = Tree.of(ids, weights, kinds, np.zeros((number, SIDES), np.int64))
    owner, places = np.repeat(np.arange(len(counts)), counts), tree.place[sets]
    places = places[np.lexsort((places, owner))]
    known = np.where(known < 0, -1, tree.place[known])
    return replace(tree, rows=fit_rows(tree, counts, places, known)), places, known


def there_and_back(counts: Ints, sets: Ints, known: Ints) -> int:
    """The bytes of the sets, once read again."""
    tree, places, known = tree_of(counts, sets, known)
    writer = Writer()
    tree.code(writer, counts, known, places)
    data = writer.bytes()
    assert (tree.code(Reader(data), counts, known, places * 0) == places).all()
    return len(data)


def of_kinds(random: np.random.Generator, count: int, alike: bool) -> tuple[Ints, Ints]:
    """Sets of 12 ids: where they are alike, all of a set from one of six hundreds."""
    sets = [random.choice(100, 12, replace=False) + 100 * random.integers(6) if alike else random.choice(VOCABULARY, 12, replace=False) for _ in range(count)]
    return np.full(count, 12), np.concatenate(sets).astype(np.int64)


def test_no_order_is_paid_for() -> None:
    """12 of 600 ids without any structure are log2 C(600, 12) = 81.7 bits; in order they would be 110.7. Within 6 %, the tables beside."""
    counts, sets = of_kinds(np.random.default_rng(0), 2000, alike=False)
    bits = there_and_back(counts, sets, np.full((2000, 2), -1)) * 8 / 2000
    assert log2(comb(600, 12)) == pytest.approx(81.7, abs=0.1)
    assert bits < 1.06 * log2(comb(600, 12))


def test_ids_that_come_together_cost_less() -> None:
    """12 of one hundred of six: log2 6 + log2 C(100, 12) = 2.6 + 49.9 bits, where 81.7 would be spent without the kinds; within 25 % of that, and less with a word known."""
    counts, sets = of_kinds(np.random.default_rng(1), 2000, alike=True)
    bits = there_and_back(counts, sets, np.full((2000, 2), -1)) * 8 / 2000
    assert bits < 1.25 * (log2(6) + log2(comb(100, 12)))
    word = sets.reshape(2000, 12)[:, :1]
    known = there_and_back(np.full(2000, 11), sets.reshape(2000, 12)[:, 1:].ravel(), np.concatenate([word, word * 0 - 1], 1)) * 8 / 2000
    assert known < bits - log2(6)


@pytest.mark.parametrize(
    "sizes",
    [[0, 0, 0], [1], [VOCABULARY], [VOCABULARY - 1, 0, 1], [0, 70, 300, 2]],
    ids=["empty", "one id", "all", "all but one", "more than the table knows"],
)
def test_any_size(sizes: list[int]) -> None:
    random = np.random.default_rng(2)
    sets = np.concatenate([np.zeros(0, np.int64), *(random.choice(VOCABULARY, size, replace=False) for size in sizes)])
    assert there_and_back(np.array(sizes), sets, np.full((len(sizes), 2), -1)) > 0
