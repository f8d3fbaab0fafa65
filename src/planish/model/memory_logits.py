"""Memory of logits: never whole, the head works in chunks of `planish.model.scored_head.CHUNK_BYTES` (MISSION T7)."""

from __future__ import annotations

from planish.model.memory_estimate import Term
from planish.model.memory_setup import Setup, Shape

CHUNK_BYTES = 2**27
"""Logits that exist at a time, as in `planish.model.scored_head`; written here so that nothing heavy is loaded to plan. A test holds the two equal."""
CHUNK_COPIES = {True: 2, False: 4}
"""Tensors of a chunk's size at the worst moment. Frozen head: logits and their slopes. Trained one: also the copy that its backward pass computes again, and its product."""


def logit_bytes(rows: int, vocabulary: int) -> float:
    """Every logit of so many scored tokens at once, in fp32: tokens x V x 4."""
    return float(rows * vocabulary * 4)


def logits(shape: Shape, setup: Setup) -> Term:
    """A chunk with its copies and the hidden states' gradient; where nothing is chunked, every logit."""
    rows = setup.micro * setup.scored
    if not setup.chunked:
        return Term("logits", logit_bytes(setup.tokens, shape.vocabulary), f"{setup.tokens:,} tokens x {shape.vocabulary:,} x 4 B")
    chunk = chunk_rows(shape, rows)
    copies = CHUNK_COPIES[setup.technique != "full"]
    total = copies * logit_bytes(chunk, shape.vocabulary) + rows * shape.hidden * 4
    return Term("logits", total, f"{copies} x {chunk:,} rows x {shape.vocabulary:,} x 4 B + {rows:,} x {shape.hidden} x 4 B")


def chunk_rows(shape: Shape, rows: int) -> int:
    """Rows whose logits exist at a time."""
    return min(rows, max(32, CHUNK_BYTES // (4 * shape.vocabulary) // 32 * 32))
