import time

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from planish.errors import InputError
from planish.evidence.intervals import bootstrap, percentile, resampled, wilson
from planish.evidence.statistic import mean


@pytest.mark.parametrize(
    ("successes", "n", "low", "high", "digits"),
    [(90, 100, 0.826, 0.945, 3), (45, 50, 0.786, 0.957, 3), (0.62 * 40, 40, 0.47, 0.75, 2)],
)
def test_wilson_e4_and_e7_examples(successes, n, low, high, digits):
    """E4 Ex: 90/100 -> centre (.90 + 1.9208/100)/(1 + 3.8415/100) = .8852, half 1.96/1.0384 sqrt(.0009 + .000096) = .0596 -> [.826, .945];
    45/50 -> [.786, .957]. E7 Ex: .62 on 40 rows -> [.47, .75]."""
    interval = wilson(successes, n)
    assert round(interval.low, digits) == low
    assert round(interval.high, digits) == high


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 7), (512, 900)])
def test_wilson_agrees_with_statsmodels(successes, n):
    assert wilson(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5), (float("nan"), 5)])
def test_wilson_refuses_what_is_no_share(successes, n):
    with pytest.raises(InputError, match="is not a share"):
        wilson(successes, n)


def test_bootstrap_of_a_mean_is_the_normal_interval_and_takes_under_a_second():
    """n = 400, share .80: standard error sqrt(.8 x .2 / 400) = .02, so about [.761, .839]."""
    values = np.repeat([1.0, 0.0], [320, 80])
    began = time.perf_counter()
    interval = bootstrap(mean(values), 400)
    assert time.perf_counter() - began < 1.0
    assert interval == pytest.approx((0.7608, 0.8392), abs=0.003)
    assert interval == bootstrap(mean(values), 400), "one seed, one interval"


def test_clustered_bootstrap_sees_that_copies_are_no_evidence():
    """100 rows, each four times: the clustered interval is that of 100 rows, twice as wide as that of 400."""
    values = np.repeat(np.repeat([1.0, 0.0], 50), 4)
    groups = [f"g{position // 4}" for position in range(400)]
    alone, clustered = bootstrap(mean(values), 400), bootstrap(mean(values), 400, groups=groups)
    assert (clustered.high - clustered.low) / (alone.high - alone.low) == pytest.approx(2.0, abs=0.1)


def test_clusters_of_unequal_size_keep_the_ratio_form():
    draws = resampled(mean(np.array([1.0, 1.0, 1.0, 0.0])), 4, groups=["a", "a", "a", "b"], resamples=4000)
    assert set(np.round(draws, 6)) == {0.0, 0.75, 1.0}
    assert percentile(draws) == (0.0, 1.0)


def test_bootstrap_refuses_no_rows_and_wrong_groups():
    with pytest.raises(InputError, match="no rows"):
        bootstrap(mean(np.zeros(0)), 0)
    with pytest.raises(InputError, match="1 groups for 2 rows"):
        bootstrap(mean(np.zeros(2)), 2, groups=["a"])
