"""Prompt tuning: n learned embeddings before every row, and nothing else trained; weak on models under 1B (arXiv 2104.08691)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model.backbone import base_of
from planish.model.described import describe
from planish.model.virtual_tokens import Table, VirtualTokens, refuse_long, tell_length

LEARNING_RATE = 1e-2
MERGES = False
UNLIKE_BASE = "virtual tokens are read like any others"


def attach(model: nn.Module, *, tokens: int = 20, init_text: str | None = None) -> nn.Module:
    """Freeze the model and learn `tokens` x H values, which start as the embeddings of `init_text` (repeated or cut to fit), or of words drawn from the vocabulary.

    The output at step 0 is not the base's: virtual tokens are read like any others. On the prefix tree they are one segment above every root, computed once a micro-batch.
    Raises InputError where they leave no room in the context.
    """
    refuse_long(model, tokens, 1.0)
    base: Any = base_of(model.requires_grad_(False))
    weight = base.get_input_embeddings().weight
    ids = torch.randint(0, len(weight), (tokens,)) if init_text is None else _ids(base.config._name_or_path, init_text, tokens)
    start: Tensor = weight.detach()[ids.to(weight.device)].float()
    VirtualTokens(Table(start.clone()), tokens).put(model)
    describe(model, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": tokens})
    tell_length(model, tokens)
    return model


def _ids(folder: str, text: str, count: int) -> Tensor:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(Problem("adapter.init_text", "holds no token", "write a sentence that says what is asked, or leave it out"))
    return torch.tensor((ids * (count // len(ids) + 1))[:count])
