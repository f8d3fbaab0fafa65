"""Tiny random models of many families, and the plain way to compute a loss that the tree is held against: every row alone, eager attention, full logits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from planish.data.tree import Sequence
from planish.model.backbone import base_of

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

WINDOW = 5
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama_bias": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen2_window": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "mistral_window": ("mistral", {"sliding_window": WINDOW}),
    "gemma": ("gemma", {"hidden_activation": "gelu_pytorch_tanh"}),
    "gemma2": ("gemma2", {"sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 5}),
    "gemma3": ("gemma3_text", {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "granite": ("granite", {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}),
    "cohere2": ("cohere2", {"logit_scale": 0.25, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "gpt2": ("gpt2", {"n_layer": 2, "n_head": 4, "n_embd": 32, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}),
    "gpt_neox": ("gpt_neox", {}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
}
"""Served by the tree: name -> (model type, what it changes)."""

SMALL_MAMBA = {"state_size": 4, "conv_kernel": 3, "expand": 2, "time_step_rank": 4}
PLAIN: dict[str, tuple[str, dict[str, Any], str]] = {
    "mamba": ("mamba", SMALL_MAMBA, "linear_attention"),
    "rwkv": ("rwkv", {"attention_hidden_size": 32, "context_length": 128}, "rwkv"),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}, "conv layers"),
    "qwen3_next": (
        "qwen3_next",
        {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
        "linear_attention layers",
    ),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": WINDOW}, "s_aux"),
    "llama4": ("llama4_text", {"num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 8}, "chunked_attention layers"),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}, "bloom"),
}
"""Not served by the tree: name -> (model type, what it changes, a word of the reason)."""


def make(folder: Path, kind: str, changes: dict[str, Any], dtype: torch.dtype = torch.float32) -> Path:
    """Write a random model of a family; norms and biases are random too, so that nothing is hidden by ones and zeros."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(COMMON | changes))).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def draw_rows(seed: int, rows: int = 7, vocabulary: int = 96) -> list[Sequence]:
    """A catalogue, dialogues under it, answers under those; answers branch at their first token, so one position predicts several. And a row that shares nothing."""
    draw = random.Random(seed)

    def run(low: int, high: int) -> list[int]:
        return [draw.randrange(3, vocabulary) for _ in range(draw.randrange(low, high))]

    catalogue = run(6, 12)
    dialogues = [catalogue + run(1, 6) for _ in range(3)]
    found = [run(3, 14)] + [draw.choice(dialogues) + run(2, 7) for _ in range(rows - 1)]
    return [Sequence(tuple(ids), (0.0, *[draw.choice([0.0, 1.0, 0.5]) for _ in ids[2:]], 1.0)) for ids in found]


def flat_loss(model: nn.Module, rows: list[Sequence]) -> torch.Tensor:
    """- sum w ln p, each row alone through the model's own forward pass and full logits."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.tensor([row.ids])
        nll = F.cross_entropy(model(input_ids=ids, use_cache=False).logits[0, :-1].double(), ids[0, 1:], reduction="none")
        total = total + (nll * torch.tensor(row.weights[1:], dtype=torch.float64)).sum()
    return total


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """The model's own attention, written out in plain torch."""
    base = base_of(model)
    before = base.config._attn_implementation
    base.config._attn_implementation = "eager"
    yield
    base.config._attn_implementation = before


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of every trainable tensor that has one, by name."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Relative distance over all gradients together. The same tensors must have one."""
    assert ours.keys() == theirs.keys()
    off = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    return float((off / sum(float(tensor.double().square().sum()) for tensor in theirs.values())) ** 0.5)
