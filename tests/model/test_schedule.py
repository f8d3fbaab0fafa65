"""Schedules, steps and epochs, and what is warned about before a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.runs import plan

from planish.errors import InputError
from planish.model.plan import batch_rows, steps_within, warnings
from planish.model.schedule import learning_rate, warmup_steps


def test_t3_worked_numbers() -> None:
    """MISSION T3: peak 2e-4, w=10, N=110: s=5 is half way up; s=60 is half way down the cosine (cos(pi/2) = 0); s=110 is 0; 3 % of 96 steps is 3."""
    at = {step: learning_rate(step, peak=2e-4, warmup=10, steps=110, schedule="cosine") for step in (5, 60, 110)}
    assert at == pytest.approx({5: 1e-4, 60: 1e-4, 110: 0.0})
    assert warmup_steps(0.03, 96) == 3
    with pytest.raises(ValueError, match="warm-up"):
        learning_rate(0, peak=1, warmup=5, steps=5, schedule="linear")


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_equal_transformers(schedule: Any, warmup: int) -> None:
    """MISSION T3, proof: step by step against transformers' schedulers."""
    from transformers import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=50)
    for step in range(50):
        assert learning_rate(step, peak=2e-4, warmup=warmup, steps=50, schedule=schedule) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_t3_a_rate_outside_its_band_is_warned_about() -> None:
    """MISSION T3: LoRA takes 2e-4, so 2e-5 and 2e-3 are at the edge of the 10x band and 2.1e-3 and 1.9e-5 beyond it."""
    quiet = [warnings(plan(1000, learning_rate=rate, epochs=1, batch_size=4), 2e-4) for rate in (2e-5, 2e-4, 2e-3)]
    assert quiet == [[], [], []]
    for rate in (1.9e-5, 2.1e-3):
        (said,) = warnings(plan(1000, learning_rate=rate, epochs=1, batch_size=4), 2e-4)
        assert "10 times off the usual 0.0002" in said


def test_t5_worked_number() -> None:
    """MISSION T5: 1,000 rows in batches of 32 are ceil(31.25) = 32 steps, the last with 1,000 - 31 x 32 = 8 rows; 3 epochs are 96 steps, and 96 steps 3 epochs."""
    made = plan(1000, batch_size=32, epochs=3)
    assert (made.steps_per_epoch, made.steps, len(batch_rows(made, 31)), made.epochs) == (32, 96, 8, 3.0)


def test_t5_token_budget() -> None:
    """MISSION T5: 1,000 rows of 50 tokens, batches of 32: an epoch is 32 steps and 50,000 tokens, so 100,000 tokens are 64 steps and 120,000 are 76 (76.8)."""
    assert [steps_within(budget, 50_000, 1000, 32) for budget in (100_000, 120_000, 1)] == [64, 76, 1]


def test_t5_few_steps_and_many_epochs_are_warned_about() -> None:
    """MISSION T5: 49 steps and 6 epochs are warned about; 50 steps of 5 epochs are not. 80 rows in batches of 8 are 10 steps an epoch."""
    assert warnings(plan(80, epochs=5), 1e-2) == []
    assert "6.0 epochs" in warnings(plan(80, epochs=6), 1e-2)[0]
    assert "49 steps" in warnings(plan(80, max_steps=49), 1e-2)[0]


def test_t6_a_batch_larger_than_the_rows_is_refused() -> None:
    with pytest.raises(InputError, match=r"7 training rows are fewer than one batch of 8") as refused:
        plan(7)
    assert refused.value.problems[0].where == "train.batch_size"


def test_an_epoch_holds_every_row_once() -> None:
    made = plan(50)
    for epoch in range(2):
        rows = [row for step in range(made.steps_per_epoch) for row in batch_rows(made, epoch * made.steps_per_epoch + step)]
        assert sorted(rows) == list(range(50))
