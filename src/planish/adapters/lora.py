"""LoRA: a trained low-rank difference beside every frozen linear layer, h = W x + (alpha / r) B A x, with B zero at the start (arXiv 2106.09685)."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from planish.model.low_rank import LowRank
from planish.model.low_rank import attach as put

LEARNING_RATE = 2e-4
"""Ten times what full fine-tuning takes (MISSION T3)."""
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
    init: Literal["default", "pissa", "loftq"] = "default",
    learning_rate_ratio: float | None = None,
) -> Any:
    """Freeze the model and put adapters on its linear layers.

    alpha is 2 r unless given, and 2 times their own rank for the layers named in `ranks`. A string in `targets` other than all-linear is a regular expression over whole names.
    `learning_rate_ratio` is LoRA+'s rate of B over that of A (arXiv 2402.12354). At step 0 the output is the base's, bit for bit; with pissa up to rounding, with loftq nearer to
    the 16-bit base than the 4-bit base is. Raises InputError for targets or layers that are not there and for a rank larger than a layer.
    """
    return put(model, LowRank(r, alpha, dropout, targets, layers, ranks or {}, rslora, False, init, learning_rate_ratio))
