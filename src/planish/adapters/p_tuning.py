"""P-tuning: n learned embeddings before every row, made by a small network that is trained with them and left behind when they are saved (arXiv 2103.10385)."""

from __future__ import annotations

from typing import Any

from torch import nn

from planish.model.backbone import base_of
from planish.model.described import describe
from planish.model.virtual_tokens import Through, VirtualTokens, refuse_long, tell_length

LEARNING_RATE = 1e-3
MERGES = False
UNLIKE_BASE = "virtual tokens are read like any others"


def attach(model: nn.Module, *, tokens: int = 20, hidden: int | None = None) -> nn.Module:
    """Freeze the model and learn `tokens` embeddings and PEFT's three-layer network over them, `hidden` wide (the model's width unless given).

    The output at step 0 is not the base's: virtual tokens are read like any others. What is saved are the finished embeddings, so a later entry goes on with prompt, not with this.
    """
    from peft.tuners.p_tuning import PromptEncoder, PromptEncoderConfig

    refuse_long(model, tokens, 1.0)
    base: Any = base_of(model.requires_grad_(False))
    width = base.config.hidden_size
    config = PromptEncoderConfig(
        num_virtual_tokens=tokens, token_dim=width, num_transformer_submodules=1, encoder_hidden_size=hidden or width, task_type="CAUSAL_LM"
    )
    encoder = PromptEncoder(config).to(next(model.parameters()).device)
    VirtualTokens(Through(encoder, tokens), tokens).put(model)
    describe(model, {"peft_type": "P_TUNING", "num_virtual_tokens": tokens, "encoder_hidden_size": hidden or width})
    tell_length(model, tokens)
    return model
