import numpy as np
import pytest
from scipy.stats import binom

from planish.errors import InputError
from planish.evidence.intervals import wilson
from planish.evidence.screen import Screened, screen, share_to_clear, shuffled


class Rows:
    """A gold set of which `right` rows of `total` are answered right, and a record of what was asked."""

    def __init__(self, right, total=500, seed=1):
        self.scores = np.random.default_rng(seed).permutation([1.0] * right + [0.0] * (total - right))
        self.asked = []

    def __call__(self, places):
        self.asked += places
        return [float(self.scores[place]) for place in places]


def test_e5_a_hopeless_rung_is_left_after_some_25_rows():
    """E5 Ex: gate .90 of 500 rows, truth .70 needs about 25 rows (mean of 100 orders), threshold 1/.05 = 20. Asked in chunks of 16, so 32 to 48 answers."""
    rows = Rows(350)
    found = [screen(rows, 500, 0.9, seed=seed) for seed in range(100)]
    assert all(one.decision == "fail" for one in found)
    assert np.mean([one.rows_used for one in found]) == pytest.approx(25, abs=4)
    assert all(one.e_value >= 20 for one in found)
    assert all(one.rows_used <= len(one.asked) < one.rows_used + 16 for one in found)
    assert "stays below 0.9 on the whole gold set" in str(found[0])


def test_no_row_is_asked_twice_and_never_more_than_there_are():
    rows = Rows(450, total=500)  # exactly on the bar: the hardest case
    found = screen(rows, 500, 0.9, seed=3)
    assert sorted(rows.asked) == sorted(set(rows.asked))
    assert rows.asked == list(found.asked)
    assert found.rows_used <= len(found.asked) <= 500


def test_e5_error_stays_at_alpha_one_row_short_of_the_bar():
    """E5 Proof: 449 of 500 right misses .90; 1,000 shuffled orders pass it at most 5 % of the time (one-sided binomial bound of .001)."""
    rows = Rows(449)
    wrong = sum(screen(rows, 500, 0.9, seed=seed).decision == "pass" for seed in range(1000))
    assert wrong <= binom.isf(0.001, 1000, 0.05)


def test_what_the_rows_seen_settle_needs_no_evidence():
    found = screen(lambda places: [0.0] * len(places), 3, 0.9, alpha=1e-6, chunk=1)
    assert (found.decision, found.rows_used, found.e_value) == ("fail", 1, None), "one wrong of three: 2/3 < .9"
    assert "no other row could change it" in str(found)
    assert Screened.model_validate(found.model_dump(mode="json")) == found


def test_an_order_that_was_peeked_at_is_refused():
    """E5 Bad: peeked order reused."""
    first = screen(Rows(400), 500, 0.9, seed=7)
    with pytest.raises(InputError, match="looked at before") as refused:
        screen(Rows(460), 500, 0.9, seed=7, peeked={first.order})
    assert refused.value.problems[0].where == "seed"
    assert screen(Rows(460), 500, 0.9, seed=8, peeked={first.order}).order != first.order


def test_missing_answers_and_an_empty_set_are_refused():
    with pytest.raises(InputError, match="2 scores for 16 rows"):
        screen(lambda places: [1.0, 1.0], 100, 0.9)
    with pytest.raises(InputError, match="0 rows"):
        screen(Rows(0, 0), 0, 0.9)
    with pytest.raises(InputError, match="rows at a time"):
        screen(Rows(5, 10), 10, 0.9, chunk=0)


def test_the_order_is_a_permutation_of_its_own_seed():
    assert sorted(shuffled(50, 0)) == list(range(50))
    assert shuffled(50, 0) == shuffled(50, 0) != shuffled(50, 1)


def test_the_share_an_interval_clears_a_bar_from():
    """One-sided Wilson, z = 1.645, n = 400: 352/400 = .88 has centre (.88 + 2.706/800)/1.00676 = .8774 and half 1.645/1.00676 sqrt(.88 x .12/400 + 2.706/640000) = .0268,
    so .8507 >= .85; 351/400 gives .8480. With 20 rows all right the bound is 20/22.7 = .881: .9 is out of reach."""
    share = share_to_clear(0.85, 400)
    assert share == pytest.approx(352 / 400)
    assert wilson(352, 400, confidence=0.90).low >= 0.85 > wilson(351, 400, confidence=0.90).low
    assert share_to_clear(0.9, 20) is None
    assert share_to_clear(0.85, 20) == 1.0
