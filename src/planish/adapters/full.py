"""Full fine-tuning: every weight is trained, in fp32; the highest cost in memory and the highest risk of forgetting, so try LoRA first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from planish.model.described import round_at_random

LEARNING_RATE = 2e-5
MERGES = True


def attach(model: nn.Module, *, weights: Literal["fp32", "bf16"] = "fp32") -> nn.Module:
    """Train everything. The state is 16 bytes a parameter: weight, gradient and two moments in fp32 (MISSION A1); with `weights: bf16` 12, and no fp32 copy: steps are rounded at
    random to bf16."""
    if weights == "bf16":
        model = model.to(torch.bfloat16)
        round_at_random(model)
    return model.requires_grad_(True)
