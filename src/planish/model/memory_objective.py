"""Memory of what an objective brings: a frozen model that its loss asks, what that holds while it reads, the keys and values of a rollout (MISSION T7)."""

from __future__ import annotations

from dataclasses import replace

from planish.model.memory_estimate import Term
from planish.model.memory_logits import chunk_rows, logit_bytes
from planish.model.memory_setup import WIDTH, Setup, Shape

ASKED_COPIES = 8
"""Tensors of a chunk's size for a frozen model that the loss asks, beside the CHUNK_COPIES of `planish.model.memory_logits`: its logits, both log-probabilities, both
probabilities and what the divergence makes of them. Counted with the profiler on CPU: 7, with jsd 8."""
ASKED_LAYER = (4, 3)
"""Values that a frozen model holds a token while it reads, as (a, b) in a x H + b x FFN: one layer's, nothing is kept. Counted so on four random llamas; the fit is within 5 %."""


def alone(setup: Setup) -> Setup:
    """The setup without what its objective brings: the frozen model and the rollout."""
    return replace(setup, beside=0, beside_hidden=0, beside_ffn=0, compared=0, rollout_tokens=0)


def beside(setup: Setup) -> Term:
    """Frozen models beside the trained one, in its format."""
    width = 2 if setup.precision == "bf16" else 4
    return Term("beside", width * setup.beside, f"{setup.beside:,} x {width} B")


def asked(shape: Shape, setup: Setup) -> Term:
    """What the frozen model holds while it reads the micro-batch, its last hidden states of the scored rows, and its part of a chunk of logits."""
    rows, width = setup.micro * setup.scored, WIDTH[setup.precision]
    layer = ASKED_LAYER[0] * setup.beside_hidden + ASKED_LAYER[1] * setup.beside_ffn
    if not layer:
        return Term("asked", 0, "")
    chunk = chunk_rows(shape, rows)
    total = setup.tokens * layer * width + rows * setup.beside_hidden * width + ASKED_COPIES * logit_bytes(chunk, shape.vocabulary)
    formula = f"{setup.tokens:,} tokens x {layer:,} x {width} B + {rows:,} rows x {setup.beside_hidden} x {width} B"
    formula += f" + {ASKED_COPIES} x {chunk:,} rows x {shape.vocabulary:,} x 4 B"
    if pairs := shape.layers if setup.compared is None else setup.compared:
        total += (
            setup.tokens * pairs * setup.beside_hidden * width
        )  # the student's are activations; copies of scored rows come when no logits exist, and are less
        formula += f" + {setup.tokens:,} tokens x {pairs} layers x {setup.beside_hidden} x {width} B"
    return Term("asked", total, formula)


def keys_and_values(shape: Shape, setup: Setup) -> Term:
    """What the rows of a rollout keep while they are written."""
    width = WIDTH[setup.precision]
    formula = f"{setup.rollout_tokens} rollout tokens x 2 x {shape.layers} layers x {shape.kv_width} x {width} B"
    return Term("kv", setup.rollout_tokens * kv_bytes(shape, width), formula)


def kv_bytes(shape: Shape, width: int) -> int:
    """Keys and values that a rollout keeps a token."""
    return 2 * shape.layers * shape.kv_width * width
