"""The optimizer: AdamW in fp32, or with its moments in 8 bits a value; its state by parameter name, so that a checkpoint fits any grouping and any number of ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.lazy import require
from planish.model.described import rate_of, rounds_at_random
from planish.model.plan import Plan
from planish.model.rounded_adamw import RoundedAdamW

BETAS = (0.9, 0.999)
EPS = 1e-8


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_for(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """AdamW of arXiv 1711.05101; norms and biases (tensors of one dimension) are not decayed.

    Tensors that an adapter lets learn at another rate are groups of their own, with the `rate` that the schedule's is multiplied with. `adamw_8bit` keeps block-wise quantised
    moments (arXiv 2110.02861) for tensors of 4,096 values or more. Weights without an fp32 copy are stepped with stochastic rounding. Raises MissingExtra when bitsandbytes is not
    installed, InputError where weights in bf16 would be rounded by an 8-bit optimizer, which has no such rounding.
    """
    held: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable(model).items():
        held.setdefault((rate_of(model, name), parameter.ndim > 1), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": held[rate, matrix], "weight_decay": plan.weight_decay if matrix else 0.0, "rate": rate}
        for rate, matrix in sorted(held, key=lambda key: (key[0], not key[1]))
    ]
    if rounds_at_random(model):
        if plan.optimizer == "adamw_8bit":
            raise InputError(Problem("train.optimizer", "adamw_8bit cannot round bf16 weights at random", "use adamw, or keep the weights in fp32"))
        return RoundedAdamW(groups, lr=plan.learning_rate, betas=BETAS, eps=EPS)
    if plan.optimizer == "adamw_8bit":
        eight_bit: torch.optim.Optimizer = require("bitsandbytes.optim", extra="4bit").AdamW8bit(groups, lr=plan.learning_rate, betas=BETAS, eps=EPS)
        return eight_bit
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=BETAS, eps=EPS)


def read_state(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The state as tensors, and its plain counters, each under `<parameter>|<name>`."""
    tensors: dict[str, Tensor] = {}
    counters: dict[str, int] = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{key}"] = value.detach()
            else:
                counters[f"{name}|{key}"] = int(value)
    return tensors, counters


def write_state(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
    """Put a state back, bit for bit. A parameter without one has none yet."""
    held: dict[str, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *counters.items()):
        name, _, part = key.rpartition("|")
        held.setdefault(name, {})[part] = value
    for name, parameter in parameters.items():
        optimizer.state.pop(parameter, None)
        if name in held:
            optimizer.state[parameter] = held[name]
