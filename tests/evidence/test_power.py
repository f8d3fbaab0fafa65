import numpy as np
import pytest
from scipy.stats import binom

from planish.errors import InputError
from planish.evidence.paired import mcnemar
from planish.evidence.power import mcnemar_power, minimum_detectable_drop, rows_needed


@pytest.mark.parametrize(("gain", "rows"), [(0.05, 312), (0.03, 870)])
def test_rows_needed_d10_examples(gain, rows):
    """D10 Ex: (1.95996 sqrt(.10) + .84162 sqrt(.10 - .0025))^2 / .0025 = (.61979 + .26280)^2 / .0025 = 311.6 -> 312; g = .03 -> 870."""
    assert rows_needed(0.10, gain) == rows


def test_rows_needed_refuses_a_gain_above_the_discordance():
    for discordance, gain in ((0.05, 0.06), (0.1, 0.0), (1.1, 0.1)):
        with pytest.raises(InputError, match="gain"):
            rows_needed(discordance, gain)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (50, [0.02, 0.05, 0.13, 0.28, 0.40]),
        (100, [0.08, 0.15, 0.32, 0.62, 0.77]),
        (200, [0.19, 0.32, 0.64, 0.91, 0.97]),
        (400, [0.35, 0.59, 0.90, 1.0, 1.0]),
        (800, [0.58, 0.85, 1.0, 1.0, 1.0]),
    ],
)
def test_power_agrees_with_the_simulated_table(n, expected):
    """D10: 50 rows see a 5-point drop 13 % of the time, 400 rows 90 %; 4,000 simulations a cell, 3 % flips each way."""
    assert [mcnemar_power(n, drop) for drop in (0.02, 0.03, 0.05, 0.08, 0.10)] == pytest.approx(expected, abs=0.02)


def test_power_is_exact_against_simulation_within_a_point():
    """D10 Proof: 20,000 simulated gold sets of 120 rows, drop .08: standard error .0035."""
    counts = np.random.default_rng(0).multinomial(120, [0.11, 0.03, 0.86], size=20_000)
    p = {(b, c): mcnemar(b, c, alternative="greater") for b, c in {(int(b), int(c)) for b, c, _ in counts}}
    found = np.mean([p[int(b), int(c)] <= 0.05 for b, c, _ in counts])
    assert mcnemar_power(120, 0.08) == pytest.approx(found, abs=0.01)


def test_minimum_detectable_drop_is_where_power_is_reached():
    drop = minimum_detectable_drop(400)
    assert drop == pytest.approx(0.041, abs=0.001)
    assert mcnemar_power(400, drop) >= 0.8 > mcnemar_power(400, drop - 0.002)
    assert minimum_detectable_drop(3) is None
    assert mcnemar_power(10, 0.0, flip=0.0) == 0.0
    with pytest.raises(InputError):
        mcnemar_power(0, 0.1)


@pytest.mark.parametrize("gain", [0.05, 0.03])
def test_d10_rows_give_the_power_they_promise(gain):
    """D10 Proof: the formula within 1 point, on the 312 and 870 rows of the examples, d = .10. It is the power of a continuous test; McNemar's mid-p, the form nearest to
    one, has .8101 and .8041 there, summed over all discordant counts m ~ Binomial(n, d). (The exact form holds back more: .764 and .776.)"""
    n, right = rows_needed(0.10, gain), (0.10 + gain) / 0.20
    power = 0.0
    for m in range(1, n + 1):
        b = np.arange(m + 1)
        higher = np.maximum(b, m - b)
        p = 2 * binom.sf(higher - 1, m, 0.5) - binom.pmf(higher, m, 0.5)
        power += binom.pmf(m, n, 0.10) * binom.pmf(b, m, right)[p <= 0.05].sum()
    assert power == pytest.approx(0.80, abs=0.011)
