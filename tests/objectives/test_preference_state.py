"""The states of a preference run, each from figures written by hand, on both sides of its bound."""

from __future__ import annotations

import math

import pytest

from planish.model.preference_state import states


def history(steps: int, loss: float, chosen: float, rejected: float, wave: float = 0.0) -> list[dict[str, float]]:
    """Figures that stay, with log-ratios that go up and down by `wave`."""
    return [
        {"loss": loss, "margin": 0.1 * (chosen - rejected), "chosen_log_ratio": chosen + wave * (-1) ** n, "rejected_log_ratio": rejected + wave * (-1) ** n}
        for n in range(steps)
    ]


@pytest.mark.parametrize(
    ("figures", "state"),
    [
        (history(19, 0.5, 1.0, -1.0), "too_early"),
        (history(20, 0.5, 1.0, -1.0), "healthy"),
        (history(40, 0.5, -1.0, -3.0), "both_falling"),
        (history(40, 0.5, -1.0, -3.0, wave=1.4), "both_falling"),
        (history(40, 0.5, -1.0, -3.0, wave=1.6), "healthy"),
        (history(40, math.log(2) - 0.004, 0.01, 0.01), "stuck_at_ln2"),
        (history(40, math.log(2) - 0.006, 0.1, 0.01), "healthy"),
    ],
)
def test_p2_states(figures: list[dict[str, float]], state: str) -> None:
    """P2 Bad. Of 40 steps the last 10 count. A wave of w has the standard deviation w * sqrt(10/9), so two standard errors are 2w/3: with a chosen mean of -1 both fall
    at w = 1.4 (.93 < 1) and nothing is said at w = 1.6 (1.07)."""
    assert [found.state for found in states(figures)] == [state]


def test_p2_a_policy_that_is_its_reference_is_told_from_a_rate_that_is_too_low() -> None:
    """P2 Bad: log-ratios of exactly 0 say that no weight moves; small ones that it moves too little."""
    still, slow = (states(history(40, math.log(2), value, value))[0] for value in (0.0, 1e-3))
    assert (still.state, slow.state) == ("stuck_at_ln2", "stuck_at_ln2")
    assert "is its reference" in still.fix
    assert "learning_rate" in slow.fix


def test_only_the_end_of_the_run_counts() -> None:
    """30 steps at ln 2, then 10 that learn: healthy since step 31."""
    (found,) = states(history(30, math.log(2), 0.0, 0.0) + history(10, 0.4, 2.0, -2.0))
    assert (found.state, found.since_step) == ("healthy", 31)
