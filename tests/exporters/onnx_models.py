"""Small random checkpoints of every family that is exported to ONNX, and what transformers says with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

IDS = [1, 20, 21, 300, 22, 23, 24, 400, 25, 26, 27, 28]
SHAPE = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama with biases, untied": LlamaConfig(**SHAPE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3),
    "llama, yarn": LlamaConfig(**SHAPE, rope_parameters=YARN, rms_norm_eps=1e-2),
    "mistral with a window of 5": MistralConfig(**SHAPE, sliding_window=5, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
    "qwen2, a window in its last layer": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3, wide heads": Qwen3Config(**SHAPE, head_dim=32),
}


def checkpoint(folder: Path, config: Any, tiny: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2 if "norm" in name or "bias" in name else 0.15)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def by_transformers(folder: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        found: np.ndarray[Any, Any] = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return found
