import numpy as np
import pytest

from planish.errors import InputError
from planish.evidence.intervals import wilson
from planish.evidence.seed_level import crossed


def test_e4_equal_seeds_leave_the_interval_of_the_rows(report):
    """E4: seeds as a level. Three seeds that answer alike: only the rows vary. 160 of 200: .80 +- 1.96 sqrt(.8 x .2 / 200) = [.745, .855]."""
    right = [True] * 160 + [False] * 40
    found = crossed([report(f"s{seed}", right) for seed in range(3)], "label.accuracy")
    assert (found.value, found.low, found.high) == pytest.approx((0.80, 0.745, 0.855), abs=0.004)
    assert "3 seeds (0.800 to 0.800)" in found.method


def test_e4_seeds_that_differ_widen_it_by_their_own_error(report):
    """Seeds at .70, .80 and .90 of 2,000 rows: their standard error is .1/sqrt(3) = .058, that of the rows .009, together .058: half width near 1.96 x .058 = .114
    (a bootstrap of three seeds has no tails: .10 to .12). Rows alone would say .018."""
    found = crossed([report(f"s{seed}", [True] * right + [False] * (2000 - right)) for seed, right in enumerate((1400, 1600, 1800))], "label.accuracy")
    assert found.value == pytest.approx(0.80)
    assert (found.high - found.low) / 2 == pytest.approx(0.114, abs=0.015)
    rows_alone = wilson(1600, 2000)
    assert found.high - found.low > 5 * (rows_alone.high - rows_alone.low)


def test_the_variance_is_that_of_rows_and_seeds_together(report):
    """Four seeds: the spread of the resamples against (s^2 / 4) + the variance of the rows, within 10 %."""
    draw = np.random.default_rng(1)
    hard = draw.random(600)
    reports = [report(f"s{seed}", list(hard < skill)) for seed, skill in enumerate((0.72, 0.78, 0.80, 0.86))]
    values = np.array([one.metrics["label.accuracy"].value for one in reports])
    rows = np.mean([[score.value for score in one.scores] for one in reports], axis=0).var() / 600
    expected = 2 * 1.96 * np.sqrt(values.var(ddof=1) / 4 + rows)
    found = crossed(reports, "label.accuracy")
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_set_metrics_clusters_and_order_are_kept(report):
    reports = [report(f"s{seed}", ([True] * 3 + [False]) * 20) for seed in range(2)]
    shuffled = [reports[0], reports[1].model_copy(update={"scores": reports[1].scores[::-1]})]
    assert crossed(shuffled, "label.macro_f1") == crossed(reports, "label.macro_f1")
    clusters = {f"r{i}": f"{'ab'[i % 4 == 3]}{i // 16}" for i in range(80)}
    plain, clustered = crossed(reports, "label.accuracy"), crossed(reports, "label.accuracy", groups=clusters)
    assert clustered.high - clustered.low > plain.high - plain.low


def test_one_seed_and_other_rows_are_refused(report):
    with pytest.raises(InputError, match="say nothing about seeds"):
        crossed([report("s0", [True] * 40)], "label.accuracy")
    with pytest.raises(InputError, match="were not scored"):
        crossed([report("s0", [True] * 40), report("s1", [True] * 39)], "label.accuracy")
