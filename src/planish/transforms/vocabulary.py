"""Vocabulary rows that a user's text does not need taken out; bytes, special tokens and all merges on the way to a kept token stay (arXiv 2402.09977)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.units import Cut


def transform(cut: Cut, counts: Tensor, required: Collection[int], parts: Callable[[int], set[int]], *, keep: int | None = None, above: int = 0) -> Cut:
    """The cut with the ids that are required, and those that stand more than `above` times in the text (`counts`, (V,)), each with its `parts` (merge closure).

    With `keep` the vocabulary has that many ids: the most frequent first, then the tokenizer's own earliest. New ids follow the order of the old ones.
    Raises InputError where `keep` is below the required ids or not below the whole, and for a negative count.
    """
    if above < 0 or (keep is not None and not len(required) <= keep < len(counts)):
        room = f"{len(required)} bytes and special tokens must stay, and there are {len(counts)} tokens"
        raise InputError(Problem("vocabulary", f"keep {keep}, above {above}: {room}", f"keep {len(required)} to {len(counts) - 1} tokens"))
    kept, order = set(required), torch.argsort(counts, descending=True, stable=True)
    wanted = [number for number in order.tolist() if counts[number] > above]
    asked = set(wanted)
    if keep is not None:
        wanted += [number for number in range(len(counts)) if number not in asked]
    for number in wanted:
        more = parts(number) - kept
        if keep is None or len(kept) + len(more) <= keep:
            kept |= more
        if keep is not None and len(kept) == keep:
            break
    return replace(cut, vocabulary=tuple(sorted(kept)))
