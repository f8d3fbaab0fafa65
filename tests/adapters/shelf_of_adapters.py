"""What the tests of all adapters share: options that suit a tiny model, rows, and weights that are not zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from planish import shelf
from planish.data.tree import Sequence, build
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.policy import score
from planish.model.trained import outputs

ROWS = [Sequence((5, 6, 7, 8, 9), (0, 0, 1, 1, 1)), Sequence((5, 6, 11, 12), (0, 0, 1, 1)), Sequence((40, 41, 42), (0, 1, 1))]
"""Two rows with a shared prefix, and one without."""
OPTIONS: dict[str, dict[str, Any]] = {
    "bitfit": {},
    "bottleneck": {"middle": 8, "places": "both"},
    "dora": {"r": 4},
    "full": {},
    "head": {"labels": ["a", "b", "c"], "unfreeze": 1},
    "ia3": {},
    "lora": {"r": 4},
    "p_tuning": {"tokens": 4},
    "prefix": {"tokens": 4},
    "prompt": {"tokens": 4},
}
PEFTS = ("dora", "ia3", "lora", "p_tuning", "prefix", "prompt")
"""Those whose files PEFT opens."""


def attached(folder: Path, name: str, **more: Any) -> nn.Module:
    """A new adapter of this name on the base."""
    torch.manual_seed(1)
    model: nn.Module = shelf.call("adapters", name, "attach", OPTIONS[name] | more)(load(folder, "fp32", trained=name == "full"))
    return model


def tuned(folder: Path, name: str, **more: Any) -> nn.Module:
    """The same with every trained tensor moved."""
    return moved(attached(folder, name, **more))


def moved(model: nn.Module) -> nn.Module:
    """Every trained tensor somewhere else, as if by training."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return model.eval()


def said(model: nn.Module) -> torch.Tensor:
    """The log-probabilities of the scored tokens, and a head's logits."""
    return outputs(model, ROWS, "fp32")


def log_probs(model: nn.Module) -> torch.Tensor:
    """The log-probabilities alone, with gradients."""
    return score(model, build(ROWS), "fp32").log_prob
