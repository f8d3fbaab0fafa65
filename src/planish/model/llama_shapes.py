"""The shape that each weight of a Llama-shaped model must have by its configuration: what a file says of itself is held against it before a value is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planish.errors import Problem


def wrong_shapes(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], *, heads: int, kv_heads: int, head_width: int) -> list[Problem]:
    """A problem for each of llama.cpp's tensors (`blk.0.attn_q.weight`) whose shape is not what config.json asks for; names that are not known here are left to others."""
    hidden, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    wide, narrow = heads * head_width, kv_heads * head_width
    known: dict[str, tuple[int, int]] = {
        "token_embd": (words, hidden),
        "output": (words, hidden),
        "attn_q": (wide, hidden),
        "attn_k": (narrow, hidden),
        "attn_v": (narrow, hidden),
        "attn_output": (hidden, wide),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden) if any("ffn_gate" in name for name in shapes) else (2 * inner, hidden),  # Phi 3's holds both
        "ffn_down": (hidden, inner),
        "attn_qkv": (wide + 2 * narrow, hidden),
    }
    if any(name.endswith(".attn_qkv.weight") for name in shapes):
        known["ffn_up"] = (2 * inner, hidden)  # Phi 3 has the gate in it as well
    vectors = dict.fromkeys(("output_norm", "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"), hidden) | dict.fromkeys(
        ("attn_q_norm", "attn_k_norm"), head_width
    )
    problems = []
    for name, shape in shapes.items():
        part, suffix = name.split(".")[-2:]
        matrix = known.get(part)
        right: tuple[int, ...] | None = (vectors[part],) if part in vectors else matrix if matrix is None or suffix == "weight" else matrix[:1]
        if right is not None and shape != right:
            problems.append(Problem(name, f"has the shape {shape}, config.json asks for {right}", "save the model again, with its own configuration"))
    return problems
