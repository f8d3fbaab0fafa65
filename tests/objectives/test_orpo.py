"""ORPO by hand: MISSION P3's numbers, answers of probability 1, and its gradient."""

from __future__ import annotations

import pytest
import torch
from tests.objectives.answers import answers

from planish.errors import InputError
from planish.objectives import orpo


def test_p3_example() -> None:
    """P3: mean log-probabilities -.5 and -1: p .6065 and .3679, odds 1.5415 and .5820, ln ratio .9741, penalty -ln sigma(.9741) = .3203; .5 + .1 * .3203 = .5320."""
    found = orpo.loss(answers((-0.2, -0.8), (-1.0,)))
    assert found.total.item() == pytest.approx(0.5320, abs=5e-5)
    assert found.metrics["penalty"] == pytest.approx(0.3203, abs=5e-5)
    assert found.metrics["log_odds_ratio"] == pytest.approx(0.9741, abs=1e-4)
    assert found.metrics["nll"] == pytest.approx(0.5)
    assert found.metrics["accuracy"] == 1
    assert found.metrics["clamped"] == 0


def test_p3_a_certain_answer_is_clamped_and_counted() -> None:
    """P3: a mean log-probability of 0 has infinite odds; it is read as -1e-6 (ln odds 13.8155) and counted. Penalty against -1 (ln odds -.5413): ln(1 + e^-14.3569)."""
    policy = answers((0.0, 0.0), (-1.0,))
    found = orpo.loss(policy)
    assert found.metrics["clamped"] == 1
    assert found.metrics["log_odds_ratio"] == pytest.approx(14.3569, abs=1e-3)
    found.total.backward()
    assert torch.isfinite(policy.log_prob.grad if policy.log_prob.grad is not None else torch.tensor(float("nan"))).all()


def test_the_penalty_alone_can_be_switched_off() -> None:
    """lambda_or 0 leaves the mean negative log-likelihood of the chosen answer."""
    assert orpo.loss(answers((-0.2, -0.8), (-1.0,)), lambda_or=0.0).total.item() == pytest.approx(0.5)
    with pytest.raises(InputError, match="lambda_or"):
        orpo.loss(answers((-1.0,), (-1.0,)), lambda_or=-0.1)


@pytest.mark.parametrize("mean", [-1e-5, -0.3, -0.69, -0.70, -3.0, -40.0])
def test_log_odds_hold_from_certain_to_hopeless(mean: float) -> None:
    """Against the plain formula in fp64: ln p - ln(1 - p)."""
    import math

    plain = mean - math.log1p(-math.exp(mean))
    found = orpo.loss(answers((mean,), (-1.0,))).metrics["log_odds_ratio"]
    assert found == pytest.approx(plain - (-1.0 - math.log1p(-math.exp(-1.0))), rel=1e-4)
