"""Whole decoder layers taken out, the least important first; without scores the last ones (arXiv 2411.15558)."""

from __future__ import annotations

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.units import Cut, kept_best, without_layers


def transform(cut: Cut, scores: Tensor | None, *, remove: int = 1) -> Cut:
    """The cut with `remove` layers less. `scores` is one number for each layer of the source, higher stays; None drops from the end.

    Raises InputError where no layer would be left, or for a number below 0.
    """
    left = len(cut.layers) - remove
    if remove < 0 or left < 1:
        raise InputError(Problem("layers", f"{remove} of {len(cut.layers)} cannot be removed", f"remove 0 to {len(cut.layers) - 1}"))
    if scores is None:
        return without_layers(cut, cut.layers[:left])
    kept = kept_best(scores[list(cut.layers)], left)
    return without_layers(cut, tuple(cut.layers[at] for at in kept))
