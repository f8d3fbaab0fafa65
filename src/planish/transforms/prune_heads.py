"""Attention heads taken out of every layer, the least important first: a key-value head goes with all query heads that read it (arXiv 1905.10650)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.units import Cut, kept_best


def transform(cut: Cut, scores: Tensor, *, remove: int = 1) -> Cut:
    """The cut with `remove` groups of heads less in every layer. `scores` (layers, groups) of the source; higher stays.

    Raises InputError where a layer would be left without heads, or for a number below 0.
    """
    fewest = min(len(groups) for groups in cut.groups)
    if remove < 0 or remove >= fewest:
        raise InputError(Problem("heads", f"{remove} of {fewest} groups of heads cannot be removed", f"remove 0 to {fewest - 1} groups"))
    kept = []
    for layer, groups in zip(cut.layers, cut.groups, strict=True):
        best = kept_best(scores[layer][list(groups)], len(groups) - remove)
        kept.append(tuple(groups[at] for at in best))
    return replace(cut, groups=tuple(kept))
