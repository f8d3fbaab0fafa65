"""LoRA: a trained low-rank difference beside every frozen linear layer, h = W x + (alpha / r) B A x, with B zero at the start (arXiv 2106.09685)."""

from __future__ import annotations

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

LEARNING_RATE = 2e-4
"""Ten times what full fine-tuning takes (MISSION T3)."""


def attach(model: nn.Module, *, r: int = 16, alpha: int | None = None, dropout: float = 0.0, targets: str | list[str] = "all-linear") -> PeftModel:
    """Freeze the model and put adapters on its linear layers. alpha is 2 r unless given. At step 0 the output is the base's, bit for bit."""
    config = LoraConfig(r=r, lora_alpha=2 * r if alpha is None else alpha, lora_dropout=dropout, target_modules=targets, bias="none", task_type="CAUSAL_LM")
    return get_peft_model(model, config)
