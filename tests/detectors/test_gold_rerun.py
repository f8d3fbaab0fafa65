import numpy as np
import pytest
from scipy.stats import binom

from planish.detectors.gold_rerun import detect
from planish.errors import InputError


def _stream(rng, n, drop, flip=0.03):
    """n pairs: `flip` of the rows change either way by chance, `drop` more get worse."""
    for position, u in enumerate(rng.random(n)):
        yield f"r{position}", float(not flip + drop <= u < 2 * flip + drop), float(u >= flip + drop)


def test_o3_example_daily_tests_without_a_budget():
    """O3 Ex: 30 daily tests at .05 raise a false alarm in 1 - .95^30 = 78.5 % of the months."""
    assert round(1 - 0.95**30, 3) == 0.785


def test_o3_null_streams_alarm_no_more_than_nominal():
    """O3 Proof: 60 months of 30 checks of 200 rows, carried along: false alarms at most .01 a month, by a one-sided binomial bound of .001."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(60):
        carried = 0.0
        for _ in range(30):
            check = detect(_stream(rng, 200, 0.0), 200, carried=carried)
            carried = check.e_value
            if check.verdict == "drift":
                alarms += 1
                break
    assert alarms <= binom.isf(0.001, 60, 0.01)


def test_o3_a_planted_drop_of_15_points_is_found_early():
    rng = np.random.default_rng(1)
    found = [detect(_stream(rng, 400, 0.15), 400) for _ in range(100)]
    assert sum(check.verdict == "drift" for check in found) >= 97
    assert np.mean([check.rows_used for check in found]) < 200


@pytest.mark.parametrize("n", [200, 400, 800])
def test_o3_the_detectable_drop_is_detected_four_times_in_five(n):
    """60 simulated checks at the stated drop; binomial standard error .05."""
    rng = np.random.default_rng(2)
    drop = detect([], n).min_detectable
    found = sum(detect(_stream(rng, n, drop), n).verdict == "drift" for _ in range(60))
    assert 0.65 <= found / 60 <= 0.95


def test_a_slow_drop_is_found_over_several_checks():
    """3 points, which one check of 400 rows rarely sees, with the evidence carried from day to day."""
    rng, found = np.random.default_rng(3), 0
    for _ in range(15):
        carried = 0.0
        for _ in range(30):
            check = detect(_stream(rng, 400, 0.03), 400, carried=carried, healthy_alpha=1e-9)
            carried = check.e_value
            if check.verdict == "drift":
                found += 1
                break
    assert found >= 12


def test_no_more_calls_than_needed():
    """Identical answers: a drop of 5 points is ruled out and the stream is left."""
    asked = []

    def live():
        for position in range(400):
            asked.append(position)
            yield f"r{position}", 1.0, 1.0

    check = detect(live(), 400)
    assert (check.verdict, check.b, check.c, check.failed) == ("healthy", 0, 0, 0)
    assert check.rows_used == len(asked) < 100


def test_failed_calls_are_the_endpoint_not_quality():
    check = detect(((f"r{i}", 1.0, None) for i in range(400)), 400)
    assert (check.verdict, check.failed, check.rows_used) == ("endpoint", 10, 0)
    assert check.failed_ids[:2] == ("r0", "r1")
    one = detect(((f"r{i}", 1.0, None if i == 3 else 1.0) for i in range(100)), 100)
    assert (one.verdict, one.failed, one.b, one.rows_used) == ("endpoint", 1, 0, 99)
    worse = detect(((f"r{i}", 1.0, None if i == 3 else 0.0) for i in range(100)), 100)
    assert worse.verdict == "drift", "a failed call hides no drop"


def test_undecided_when_the_rows_end_first():
    check = detect([("a", 1.0, 0.0), ("b", 0.5, 1.0)], 30)
    assert (check.verdict, check.b, check.c, check.rows_used, check.n) == ("undecided", 1, 1, 2, 30)


def test_refusals():
    with pytest.raises(InputError) as refused:
        detect([], 0, alpha=0.0, margin=1.0, checks=0, carried=-1.0, healthy_alpha=2.0, max_failed=0)
    assert len(refused.value.problems) == 7
    with pytest.raises(InputError, match="occurs twice"):
        detect([("a", 1.0, 1.0), ("a", 1.0, 1.0)], 5)
    with pytest.raises(InputError, match="more than the 1 rows"):
        detect([("a", 1.0, None), ("b", 1.0, 1.0)], 1)
    with pytest.raises(InputError, match=r"0\.\.1"):
        detect([("a", 1.0, 1.5)], 5)
