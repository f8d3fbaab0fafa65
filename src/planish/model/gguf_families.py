"""The model families that llama.cpp computes and that can be handed to it, and where each departs from Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
"""transformers' name -> llama.cpp's, of what lies around the layers."""
INSIDE = {
    "input_layernorm": "attn_norm",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q",
    "self_attn.v_proj": "attn_v",
}
"""The same of what lies in a layer of Llama."""
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Gemma's norms before and after each half of a layer."""
FUSED = {
    "input_layernorm": "attn_norm",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
}
"""Phi 3's layer: query, key and value are one matrix, gate and up another; llama.cpp cuts them in the same order."""


@dataclass(frozen=True)
class Family:
    """`architecture` is llama.cpp's name. `paired`: it wants the rotary rows in pairs; otherwise it turns halves, as transformers does. `activation`: the key of config.json
    and the only value that it computes. `shifted`: the checkpoint stores its norms less 1.

    `period`: every so manieth layer sees everything and the others a window; 0 where llama.cpp computes no window. `scaled` is the tensor that takes up a query scale that is
    not llama.cpp's; at `whole_width_at` layers that one is 1 / sqrt(hidden size / heads) and not 1 / sqrt(head width). `defaults` are those of transformers that differ from
    Llama's and that a config.json may leave out."""

    architecture: str
    inside: Mapping[str, str] = field(default_factory=lambda: INSIDE)
    paired: bool = False
    biases: bool = True
    activation: tuple[str, str] = ("hidden_act", "silu")
    shifted: bool = False
    tied_only: bool = False
    windowed_only: bool = False
    period: int = 0
    rotary: tuple[str, ...] = ("default", "linear", "llama3")
    scaled: str = ""
    whole_width_at: int = 0
    softcaps: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


GELU = ("hidden_activation", "gelu_pytorch_tanh")
GEMMA = {"tie_word_embeddings": True, "head_dim": 256, "hidden_activation": GELU[1], "query_pre_attn_scalar": 256, "sliding_window": 4096, "rms_norm_eps": 1e-6}

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", paired=True),
    "MistralForCausalLM": Family("llama", paired=True),
    "Qwen2ForCausalLM": Family("qwen2", defaults={"use_sliding_window": False}),
    "Qwen3ForCausalLM": Family("qwen3", INSIDE | HEAD_NORMS, defaults={"use_sliding_window": False}),
    "Gemma2ForCausalLM": Family(
        "gemma2",
        INSIDE | SANDWICH,
        biases=False,
        activation=GELU,
        shifted=True,
        tied_only=True,
        windowed_only=True,
        period=2,
        rotary=("default",),
        scaled="q_proj",
        whole_width_at=46,
        softcaps=("attn_logit_softcapping", "final_logit_softcapping"),
        defaults=GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "max_position_embeddings": 8192},
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3",
        INSIDE | SANDWICH | HEAD_NORMS,
        biases=False,
        activation=GELU,
        shifted=True,
        period=6,
        rotary=("default", "linear"),
        scaled="q_norm",
        whole_width_at=62,
        defaults=GEMMA | {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "max_position_embeddings": 131072},
    ),
    "Phi3ForCausalLM": Family("phi3", FUSED, biases=False, rotary=("default", "longrope"), defaults={"original_max_position_embeddings": 4096}),
}
"""transformers' class -> what llama.cpp computes of it. SmolLM is a Llama."""
