"""What a compact capture keeps of a logarithm."""

from __future__ import annotations

import numpy as np
import pytest

from planish.data.capture_rounding import GROWTH, WIDEST, levels_of, log_probs_of, rests_of, scaled, shares_of


@pytest.mark.parametrize("steps", [1, 4, 4096])
def test_a_logarithm_is_off_by_half_a_step_of_its_place(steps: int) -> None:
    """Levels lie e^(0.4 |l|) / steps apart, at most 8 / steps: at -1 and 4 steps .373, so off by at most .19 (and a little, as levels grow apart); the level of a level is
    itself, and only the whole of a level goes down."""
    exact = -np.linspace(0, 200, 20001)
    levels = levels_of(exact, steps)
    given = log_probs_of(levels, steps)
    width = np.minimum(np.exp(GROWTH * np.maximum(-exact, -given)), WIDEST) / steps
    assert (np.abs(given - exact) <= width * 0.5 + 1e-9).all()
    assert (np.diff(levels) >= 0).all()
    assert (levels_of(given, steps) == levels).all()
    assert log_probs_of(np.array([0]), steps)[0] == 0


@pytest.mark.parametrize("left", [1e-12, 1e-5, 0.016, 0.5, 0.99, 1 - 1e-7])
def test_a_small_rest_and_a_small_kept_part_are_both_told(left: float) -> None:
    """To 1/16 of either at 4 steps: the log-odds are off by at most 1/16."""
    tail, kept = shares_of(rests_of(np.array([left]), 4), 4)
    assert np.exp(tail[0]) + np.exp(kept[0]) == pytest.approx(1, abs=1e-12)
    assert tail[0] == pytest.approx(np.log(left), abs=1 / 16 + 1e-9)
    assert kept[0] == pytest.approx(np.log1p(-left), abs=1 / 16 + 1e-9)


def test_s1_the_worked_position() -> None:
    """S1: logits (4,2,0), k=2: at T=1 .867, .117 and a tail of .016; at T=2 .665, .245 and .090. Kept to 1/4096; a position without a teacher stays without."""
    lse = np.log(np.exp([4, 2, 0]).sum())
    counts, log_probs = np.array([0, 2]), log_probs_of(levels_of(np.array([4, 2]) - lse, 4096), 4096)
    for T, want in ((1.0, (0.867, 0.117, 0.016)), (2.0, (0.665, 0.245, 0.090))):
        p = np.exp(np.array([4, 2, 0]) / T)
        left = p[2] / p.sum()
        given, tail, shift = scaled(counts, log_probs, rests_of(np.array([left]), 4096), 4096, T)
        assert [*np.exp(given), np.exp(tail[1])] == pytest.approx(want, abs=6e-4)
        assert (tail[0], shift[0]) == (0, 0)
