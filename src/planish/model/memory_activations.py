"""Memory of activations: what autograd keeps of a layer for the backward pass, counted on this project's own forward pass, by technique (MISSION T7)."""

from __future__ import annotations

from planish.errors import InputError, Problem
from planish.model.memory_estimate import Term
from planish.model.memory_setup import WIDTH, Setup, Shape

TEXTBOOK = 34
"""Bytes per token and hidden value that a layer keeps in 16 bits with flash attention, in arXiv 2205.05198's account (FFN 4 H, GELU, dropout); KEPT is what we keep."""
KEPT: dict[str, dict[int, tuple[float, float, float]]] = {
    "full": {4: (44, 0, 16), 2: (36, 0, 8)},
    "lora": {4: (37.2, 0, 16), 2: (28.8, 0, 8)},
    "dora": {4: (61.2, 16, 32), 2: (40.8, 8, 16)},
    "through": {4: (24.3, 8, 16), 2: (16.3, 4, 10)},
}
"""Bytes that a layer keeps a token, as (a, b, c) in a x H + b x KV width + c x FFN, by bytes a value. Counted with autograd's saved-tensor hooks on random llama layers
of six shapes (H 64 to 128), distinct storages without parameters; the fit is within 1.1 %. "through" is a frozen layer that a gradient only passes (counted with IA3)."""
KEPT_AS = {
    "qlora": "lora",
    "bottleneck": "lora",
    "ia3": "through",
    "bitfit": "through",
    "prefix": "through",
    "prompt": "through",
    "p_tuning": "through",
    "head": "full",
}


def check_technique(technique: str) -> None:
    """Raises InputError for a technique whose activations nobody has counted."""
    if technique not in KEPT and technique not in KEPT_AS:
        raise InputError(
            Problem(f"train.adapter: {technique}", "what it keeps for its backward pass is not known", "planish plan RECIPE --measure runs two steps")
        )


def kept_bytes(shape: Shape, setup: Setup) -> float:
    """What one layer keeps a token for its backward pass."""
    a, b, c = KEPT[KEPT_AS.get(setup.technique, setup.technique)][WIDTH[setup.precision]]
    return a * shape.hidden + b * shape.kv_width + c * shape.ffn


def textbook_activations(tokens: int, hidden: int, layers: int, *, checkpointed: bool = False) -> float:
    """The figure in circulation, for 16 bits: 34 B x tokens x H a layer, or its input alone (2 B) when it is computed again."""
    return float((2 if checkpointed else TEXTBOOK) * tokens * hidden * layers)


def activations(shape: Shape, setup: Setup) -> Term:
    """What every layer that the backward pass goes through keeps; a checkpointed one keeps its input."""
    depth = shape.layers if setup.trained_layers is None else setup.trained_layers
    width = 4 if setup.technique == "full" else WIDTH[setup.precision]  # a checkpoint is the residual stream, fp32 where the embedding is
    layer = width * shape.hidden if setup.checkpointed else kept_bytes(shape, setup)
    return Term("activations", setup.tokens * depth * layer, f"{setup.tokens:,} tokens x {depth} layers x {layer:,.0f} B")


def temporary(shape: Shape, setup: Setup) -> Term:
    """What exists while one layer is worked on: its own activations' gradients, weights cast for autocast, a matrix out of 4 bits."""
    if not setup.tokens or setup.trained_layers == 0:
        return Term("temporary", 0, "")
    layer = setup.tokens * kept_bytes(shape, setup)
    casts = 2 * shape.linear if setup.technique == "full" and setup.precision != "fp32" else 0
    opened = WIDTH[setup.precision] * shape.hidden * shape.ffn if setup.technique == "qlora" else 0
    return Term(
        "temporary",
        layer + casts + opened,
        "one layer's activations again" + (", the weights cast to 16 bits" if casts else "") + (", one matrix" if opened else ""),
    )
