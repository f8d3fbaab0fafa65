"""Full fine-tuning: every weight is trained, in fp32; the highest cost in memory and the highest risk of forgetting, so try LoRA first."""

from __future__ import annotations

from torch import nn

LEARNING_RATE = 2e-5
MERGES = True


def attach(model: nn.Module) -> nn.Module:
    """Train everything. The state is 16 bytes a parameter: weight, gradient and two moments in fp32 (MISSION A1)."""
    return model.requires_grad_(True)
