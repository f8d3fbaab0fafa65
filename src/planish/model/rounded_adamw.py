"""AdamW on bf16 weights with no fp32 copy of them: each step is made in fp32 and rounded to bf16 at random, so that it is right on average (arXiv 2010.06192; MISSION A1).

Rounding to the nearest would lose every step that is smaller than half a unit in the last place, which with 8 bits of mantissa is most of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def round_stochastically(values: Tensor) -> Tensor:
    """fp32 of any shape -> bf16, up or down in proportion to the distance: the mean over many draws is the value itself. What is bf16 already stays as it is."""
    bits = values.contiguous().view(torch.int32)
    drawn = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device)
    return ((bits + drawn) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)  # the lower 16 bits are what bf16 has no room for


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW of arXiv 1711.05101 with fp32 moments, for weights in bf16: 2 bytes a weight, 2 its gradient, 8 its moments."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every weight that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter, dtype=torch.float32) for _ in range(2))
        gradient, weight = parameter.grad.float(), parameter.float()  # type: ignore[union-attr]
        state["step"] += 1
        count = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        spread = (state["exp_avg_sq"] / (1 - second**count)).sqrt_().add_(group["eps"])
        weight.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - first**count))
        parameter.copy_(round_stochastically(weight) if parameter.dtype == torch.bfloat16 else weight)
