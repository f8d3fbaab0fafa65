"""Full fine-tuning: AdamW's step is torch's, and bf16 weights without an fp32 copy are right on average (MISSION A1); LoRA+'s rate reaches the step (A3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.shelf_of_adapters import attached, log_probs, tuned
from torch import nn

from planish.errors import InputError
from planish.model.optimizer import optimizer_for, trainable
from planish.model.plan import Plan, make_plan
from planish.model.rounded_adamw import RoundedAdamW, round_stochastically


def plan() -> Plan:
    figures = {"batch_size": 8, "epochs": 1, "max_steps": None, "warmup": 0.0, "validations": 0, "checkpoints": 0, "micro_tokens": 2048, "schedule": "constant"}
    return make_plan(16, **figures, learning_rate=1e-3, weight_decay=0.01, clip=1.0, precision="fp32", seed=0)  # type: ignore[arg-type]


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    (-log_probs(model).mean()).backward()
    optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in trainable(model).items()}


@pytest.mark.parametrize("ours", [True, False])
def test_a1_one_step_is_torchs(biased: Path, ours: bool) -> None:
    """MISSION A1: of plain AdamW at the plan's rate with matrices decayed by .01 and vectors not; by our own for bf16 on fp32 weights too (1e-6)."""
    model, other = attached(biased, "full"), attached(biased, "full")
    made = optimizer_for(model, plan())
    if ours:
        made = RoundedAdamW(made.param_groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    plain = torch.optim.AdamW(
        [{"params": [p for p in other.parameters() if p.ndim > 1]}, {"params": [p for p in other.parameters() if p.ndim == 1], "weight_decay": 0}], lr=1e-3
    )
    one, two = step(model, made), step(other, plain)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in two)


def test_rounding_is_right_on_average_and_exact_where_it_can_be() -> None:
    """Between the bf16 neighbours 1 and 1.0078125 = 1 + 2^-7, the value 1 + 2^-9 goes up a quarter of the time: 20,000 draws, standard error .003."""
    drawn = round_stochastically(torch.full((20_000,), 1 + 2**-9))
    assert set(drawn.unique().tolist()) == {1.0, 1 + 2**-7}
    assert float((drawn == 1 + 2**-7).float().mean()) == pytest.approx(0.25, abs=0.015)
    exact = torch.randn(1000).to(torch.bfloat16)
    assert torch.equal(round_stochastically(exact.float()), exact)
    low = round_stochastically(torch.full((20_000,), -(1 + 2**-9)))
    assert float((low == -(1 + 2**-7)).float().mean()) == pytest.approx(0.25, abs=0.015)


def test_small_steps_are_not_lost() -> None:
    """1,000 steps of 1e-5 on the weight 1: rounded to the nearest it never moves; at random it goes to 0.99, give or take .004 (an error of at most 2^-8 sqrt(.01 / 2^-8))."""
    weights = nn.Parameter(torch.ones(200, dtype=torch.bfloat16))
    optimizer = RoundedAdamW([{"params": [weights], "weight_decay": 0.0}], lr=1e-5, betas=(0.0, 0.0), eps=1e-8)
    for _ in range(1000):
        weights.grad = torch.ones_like(weights)
        optimizer.step()
    assert float(weights.detach().float().mean()) == pytest.approx(0.99, abs=0.002)
    assert torch.equal(torch.ones(1, dtype=torch.bfloat16) - 1e-5, torch.ones(1, dtype=torch.bfloat16))


def test_bf16_weights_learn(biased: Path) -> None:
    """12 bytes a parameter: bf16 weight and gradient, fp32 moments; the answer's probability rises. An 8-bit optimizer is refused."""
    torch.manual_seed(0)
    model = attached(biased, "full", weights="bf16")
    optimizer = optimizer_for(model, replace(plan(), learning_rate=1e-3))
    before = float(log_probs(model).detach().mean())
    for _ in range(20):
        step(model, optimizer)
        optimizer.zero_grad()
    assert float(log_probs(model).detach().mean()) > before + 1
    size = sum(p.numel() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    states: Any = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.ndim]
    assert sum(t.numel() * t.element_size() for t in [*model.parameters(), *states]) + 2 * size == 12 * size
    with pytest.raises(InputError, match="cannot round bf16"):
        optimizer_for(model, replace(plan(), optimizer="adamw_8bit"))


def test_a3_lora_plus_steps_b_further(biased: Path) -> None:
    """LoRA+ (arXiv 2402.12354): Adam's first step has the size of the rate, so B moves 16 times as far as A."""
    model = tuned(biased, "lora", learning_rate_ratio=16.0)
    optimizer = optimizer_for(model, replace(plan(), weight_decay=0.0))
    assert sorted(group["rate"] for group in optimizer.param_groups) == [1.0, 16.0]
    before = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
    (-log_probs(model).mean()).backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["rate"]
    optimizer.step()
    moved = {name: float((parameter.detach() - before[name].detach()).abs().median()) for name, parameter in trainable(model).items()}
    assert all(value == pytest.approx(0.016 if "lora_B" in name else 0.001, rel=0.02) for name, value in moved.items())
