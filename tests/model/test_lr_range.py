"""The learning-rate range test (MISSION T4)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.model.runs import adapted, examples, plan, weights

from planish.model.lr_range import lr_range_test, rates, sweep
from planish.objectives import sft


def test_t4_worked_number() -> None:
    """MISSION T4: n = 101 from 1e-6 to 1e-2, i = 50 is half way on the log scale: 1e-6 x (1e4)^(1/2) = 1e-4."""
    grid = rates(1e-6, 1e-2, 101)
    assert grid[50] == pytest.approx(1e-4)
    assert (grid[0], grid[-1]) == (pytest.approx(1e-6), pytest.approx(1e-2))


@pytest.mark.parametrize("curvature", [400.0, 2_000.0, 50_000.0])
def test_t4_a_quadratic_bowl_diverges_at_two_over_its_curvature(curvature: float) -> None:
    """MISSION T4, proof: gradient descent on h x^2 / 2 multiplies x by 1 - lr h, so it grows from lr = 2/h on; found within one grid step."""
    grid = rates(1e-6, 1e-2, 100)
    factor = grid[1] / grid[0]
    x = 1.0

    def step(rate: float) -> float:
        nonlocal x
        loss = curvature * x * x / 2
        x -= rate * curvature * x
        return loss

    found = sweep(step, grid)
    assert found.diverges is not None
    assert found.suggested is not None
    assert abs(math.log(found.diverges / (2 / curvature))) <= math.log(factor) * 1.0001
    assert found.suggested <= found.diverges / 3
    assert found.steepest is not None
    assert found.suggested == min(found.steepest, found.diverges / 3)


def test_t4_no_descent_no_suggestion() -> None:
    """MISSION T4: a loss that only rises, one that is noise around a level, and one that is not finite suggest nothing, and say why."""
    grid = rates()
    draw = np.random.default_rng(0)
    for losses in (np.linspace(1, 2, 100), 2 + 0.1 * draw.standard_normal(100), np.full(100, np.nan)):
        left = iter(losses)
        found = sweep(lambda _, left=left: float(next(left)), grid)  # type: ignore[misc]
        assert found.suggested is None
        assert found.why


def test_noise_alone_seldom_suggests() -> None:
    """200 sweeps of nothing but noise: at most 2 % are taken for a descent."""
    draw = np.random.default_rng(1)
    taken = 0
    for _ in range(200):
        left = iter(2 + 0.1 * draw.standard_normal(100))
        taken += sweep(lambda _, left=left: float(next(left)), rates()).suggested is not None  # type: ignore[misc]
    assert taken <= 4


def test_t4_the_run_is_never_touched(tiny: Path) -> None:
    """MISSION T4: weights, random state and mode are what they were; on the tiny model a rate is found, below the one that diverges."""
    model = adapted(tiny).eval()
    before, random = weights(model), torch.get_rng_state()
    found = lr_range_test(model, examples(), sft.loss, plan(max_steps=100), low=1e-4, high=10.0, count=60)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.suggested is not None
    assert 1e-3 < found.suggested < 1.0
    assert found.diverges is not None
