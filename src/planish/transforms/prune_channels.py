"""Channels of the MLP taken out of every layer, the least important first: a row of gate and up with its column of down (arXiv 2305.11627)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.units import Cut, kept_best


def transform(cut: Cut, scores: Tensor, *, remove: int = 64) -> Cut:
    """The cut with `remove` channels less in every layer. `scores` (layers, channels) of the source; higher stays.

    Raises InputError where a layer would be left without channels, or for a number below 0.
    """
    fewest = min(len(channels) for channels in cut.channels)
    if remove < 0 or remove >= fewest:
        raise InputError(Problem("channels", f"{remove} of {fewest} channels cannot be removed", f"remove 0 to {fewest - 1}"))
    kept = []
    for layer, channels in zip(cut.layers, cut.channels, strict=True):
        best = kept_best(scores[layer][list(channels)], len(channels) - remove)
        kept.append(tuple(channels[at] for at in best))
    return replace(cut, channels=tuple(kept))
