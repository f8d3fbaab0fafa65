"""A training run of the tiny model, as the loop's tests start it: random rows, LoRA with both halves away from zero, six steps with validations and checkpoints."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from planish.adapters import lora
from planish.data.tree import Sequence
from planish.model import loop
from planish.model.example import Example
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.plan import Plan, make_plan
from planish.objectives import sft


def example(*ids: int, scored: int) -> Example:
    """One sequence whose last `scored` tokens are trained."""
    return Example((Sequence(ids, (*[0.0] * (len(ids) - scored), *[1.0] * scored)),), float(scored))


def examples(count: int = 24) -> list[Example]:
    """Rows of 6 to 11 tokens with a common beginning of 3; two are trained."""
    draw = torch.Generator().manual_seed(0)
    return [example(*[5, 6, 7], *torch.randint(3, 500, (int(n),), generator=draw).tolist(), scored=2) for n in torch.randint(3, 9, (count,), generator=draw)]


def plan(rows: int = 24, **given: Any) -> Plan:
    """Six steps of eight rows."""
    settings: dict[str, Any] = {
        "batch_size": 8,
        "epochs": 2,
        "max_steps": None,
        "warmup": 0.03,
        "validations": 2,
        "checkpoints": 3,
        "micro_tokens": 64,
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "weight_decay": 0.01,
    }
    if "max_steps" in given:
        settings["epochs"] = None
    return make_plan(rows, **{**settings, "clip": 1.0, "precision": "fp32", "seed": 42, **given})


def adapted(tiny: Path, r: int = 4) -> nn.Module:
    """The tiny model with LoRA, both halves seeded and away from zero."""
    model = lora.attach(load(tiny, "fp32"), r=r, dropout=0.1)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of what is trained."""
    return {name: parameter.detach().clone() for name, parameter in trainable(model).items()}


def digest(model: nn.Module) -> str:
    """sha256 over the bytes of every trained tensor, by name."""
    total = hashlib.sha256()
    for name, parameter in sorted(trainable(model).items()):
        total.update(name.encode() + parameter.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def run(tiny: Path, folder: Path, made: Plan | None = None, rows: list[Example] | None = None, **more: Any) -> nn.Module:
    """Train and give the model; `more` goes to the loop."""
    model = adapted(tiny)
    given: dict[str, Any] = {"meaning": {"base": "x"}, "validation": examples(4), **more}
    loop.train(model, rows or examples(), sft.loss, made or plan(), folder, **given)
    return model
