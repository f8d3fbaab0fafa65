"""Composing batches: bins under a budget, trees that share, and orders of an epoch that favour no row."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from planish.data.batches import figures, order, prefix_classes, shared_order
from planish.data.bins import best_fit_decreasing, packed, padded
from planish.data.tree import Sequence, build, pack


def row(*ids: int, scored: int = 1) -> Sequence:
    return Sequence(ids, (*[0.0] * (len(ids) - scored), *[1.0] * scored))


def test_k5_worked_number() -> None:
    """MISSION K5: lengths 3, 5, 8 in one batch: 3 x 8 = 24 cells, 16 tokens, 8 of 24 cells are padding (33 %)."""
    batch = padded([3, 5, 8])
    assert (batch.cells - batch.used, batch.cells) == (8, 24)
    assert round(batch.padding, 2) == 0.33


def test_k6_worked_number() -> None:
    """MISSION K6: lengths 700, 500, 300, 300, 200 in bins of 1,000: 700+300 and 500+300+200, 2,000 of 2,000 = 100 %; padded to 700: 5 x 700 = 3,500, 2,000 of them = 57 %.

    The tree packer does the same with rows that share nothing.
    """
    lengths = [700, 500, 300, 300, 200]
    assert [sorted((lengths[i] for i in members), reverse=True) for members in best_fit_decreasing(lengths, 1000)] == [[700, 300], [500, 300, 200]]
    assert (packed(lengths, 1000).used, packed(lengths, 1000).cells, packed(lengths, 1000).share) == (2000, 2000, 1.0)
    assert (padded(lengths).cells, round(padded(lengths).share, 2)) == (3500, 0.57)
    rows = [[row(*range(1000 * n, 1000 * n + length), 1)] for n, length in enumerate(lengths, 1)]
    assert [len(tree.ids) for _, tree in pack(rows, 1000)] == [1000, 1000]


def test_t11_worked_number() -> None:
    """MISSION T11: a 1,000-token catalogue and 16 rows of 100: 16 x 1,100 = 17,600 token passes become 1,000 + 16 x 100 = 2,600, 6.8 times fewer, in one tree."""
    rows = [[row(*range(1000), 2000 + n, *[3000] * 99, 1, scored=20)] for n in range(16)]
    found = figures(tree for _, tree in pack(rows, 2600))
    assert (found.tokens_in, found.computed, found.padded, found.scored) == (17600, 2600, 17600, 320)
    assert round(found.shared, 1) == 6.8


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(10, 60))
def test_bins_hold_every_item_once_within_the_capacity(sizes: list[int], capacity: int) -> None:
    """And no two bins could have been one."""
    bins = best_fit_decreasing(sizes, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(sizes)))
    for members in bins:
        assert len(members) == 1 or sum(sizes[index] for index in members) <= capacity
    if len(bins) > 1:
        used = sorted(sum(sizes[index] for index in members) for members in bins)
        assert used[0] + used[1] > capacity


@given(
    st.lists(st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=30), min_size=1, max_size=3), min_size=1, max_size=25),
    st.integers(20, 80),
    st.booleans(),
)
def test_packing_loses_nothing_and_keeps_to_the_budget(groups: list[list[list[int]]], budget: int, shared: bool) -> None:
    """Every group once and whole, with its weights; a tree above the budget holds a single group. Without sharing the budget counts padded cells."""
    given_groups = [[row(*ids) for ids in group] for group in groups]
    seen = []
    for members, tree in pack(given_groups, budget, shared=shared):
        seen += members
        sequences = [sequence for index in members for sequence in given_groups[index]]
        assert tree.sequences == len(sequences)
        assert tree.target.tolist() == [sequence.ids[-1] for sequence in sequences]
        cells = len(tree.ids) if shared else len(sequences) * max(len(sequence.ids) - 1 for sequence in sequences)
        assert cells <= budget or len(members) == 1
    assert sorted(seen) == list(range(len(groups)))


def test_rows_that_share_meet() -> None:
    """Four catalogues of 100 tokens with 6 rows each, shuffled: bins of 220 tokens pay for each catalogue once."""
    draw = random.Random(0)
    rows = [[row(*range(1000 * c, 1000 * c + 100), 5000 + n, *[7] * 18, 1)] for c in range(4) for n in range(6)]
    draw.shuffle(rows)
    found = figures(tree for _, tree in pack(rows, 220))
    assert found.computed == 4 * (100 + 6 * 19)


def test_classes_are_shared_prefixes() -> None:
    """Rows of one catalogue are one class however they go on; a row that shares less than `least` is another."""
    catalogue = list(range(10))
    rows = [row(*catalogue, 50, 51), row(9, 9, 9), row(*catalogue, 40), row(*catalogue[:9], 99, 1), row(*catalogue, 50, 51)]
    classes = prefix_classes(rows, 10)
    assert classes[0] == classes[2] == classes[4]
    assert len({classes[0], classes[1], classes[3]}) == 3


@pytest.mark.parametrize("sizes", [[5, 1, 1], [4, 3], [20, 1, 2], [7]])
def test_a_shared_order_favours_no_row(sizes: list[int]) -> None:
    """Over 4,000 epochs every row is visited once each, and its place is uniform: chi-square of place counts for each row, none below p = 1e-4; so is its expected place."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    rows, epochs = len(classes), 4000
    places = np.empty((epochs, rows), int)
    for epoch in range(epochs):
        found = shared_order(classes, 1, 7, epoch)
        assert sorted(found) == list(range(rows))
        places[epoch, found] = np.arange(rows)
    for row_places in places.T:
        assert stats.chisquare(np.bincount(row_places, minlength=rows)).pvalue > 1e-4
    spread = (rows**2 - 1) / 12  # variance of a uniform place
    assert np.abs(places.mean(0) - (rows - 1) / 2).max() < 4.5 * (spread / epochs) ** 0.5


def test_a_shared_order_shares() -> None:
    """Ten catalogues of 100 tokens, 64 rows each: steps of 8 rows hold about one catalogue instead of about six, and the tree gets smaller by as much."""
    rows = [row(*range(1000 * c, 1000 * c + 100), 20000 + n, 1) for c in range(10) for n in range(64)]
    classes = prefix_classes(rows)

    def computed(sequence: np.ndarray) -> int:
        return figures(build([rows[index] for index in sequence[at : at + 8]]) for at in range(0, len(rows), 8)).computed

    plain, shared = computed(order(len(rows), 0, 0)), computed(shared_order(classes, 8, 0, 0))
    assert shared < plain / 4


def test_orders_repeat_by_seed_and_change_by_epoch() -> None:
    classes = np.repeat(np.arange(5), 20)
    for made in (lambda epoch: order(100, 3, epoch), lambda epoch: shared_order(classes, 4, 3, epoch)):
        assert made(0).tolist() == made(0).tolist()
        assert made(0).tolist() != made(1).tolist()
