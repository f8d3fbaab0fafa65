"""SimPO by hand."""

from __future__ import annotations

import math

import pytest
from tests.objectives.answers import answers

from planish.errors import InputError
from planish.objectives import simpo


def test_length_gains_nothing() -> None:
    """Means -.5 and -1: margin 2 * .5 - 1 = 0, loss ln 2; a chosen answer twice as long at the same mean costs the same."""
    short, long = (simpo.loss(answers(tokens, (-1.0, -1.0))) for tokens in ((-0.2, -0.8), (-0.2, -0.8, -0.2, -0.8)))
    assert short.total.item() == pytest.approx(math.log(2), abs=1e-6)
    assert long.total.item() == pytest.approx(short.total.item(), abs=1e-6)
    assert (long.metrics["chosen_tokens"], long.metrics["accuracy"]) == (4, 1)


def test_beta_and_gamma() -> None:
    """Margin 4 * .5 - .5 = 1.5: ln(1 + e^-1.5) = .2014."""
    assert simpo.loss(answers((-0.5,), (-1.0,)), beta=4.0, gamma=0.5).total.item() == pytest.approx(0.2014, abs=5e-5)


def test_options_without_meaning_are_refused_together() -> None:
    with pytest.raises(InputError) as refused:
        simpo.loss(answers((-1.0,), (-1.0,)), beta=0.0, gamma=-1.0)
    assert [problem.where for problem in refused.value.problems] == ["train.objective.simpo.beta", "train.objective.simpo.gamma"]
