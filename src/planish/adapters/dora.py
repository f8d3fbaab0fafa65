"""DoRA: LoRA on the direction of each weight row, with its length trained apart, W' = m (W + s B A) / ||W + s B A|| (arXiv 2402.09353)."""

from __future__ import annotations

from typing import Any

from torch import nn

from planish.model.low_rank import LowRank
from planish.model.low_rank import attach as put

LEARNING_RATE = 2e-4
MERGES = True


def attach(
    model: nn.Module,
    *,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    targets: str | list[str] = "all-linear",
    layers: str | list[int] | None = None,
    ranks: dict[str, int] | None = None,
    rslora: bool = False,
) -> Any:
    """Freeze the model and put adapters on its linear layers: LoRA's parameters and one length per row, which starts at the row's own. The norm is not differentiated.

    At step 0 the output is the base's up to rounding. Raises InputError as lora does, and for a row of zeros, which has no direction.
    """
    return put(model, LowRank(r, alpha, dropout, targets, layers, ranks or {}, rslora, dora=True))
