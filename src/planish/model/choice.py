"""Choosing among options by constrained decoding: at each node of the options' token trie only the tokens that lead to an option are allowed (MISSION E3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Path = tuple[int, ...]


def branches(options: Sequence[Sequence[int]]) -> dict[Path, tuple[int, ...]]:
    """Every node with more than one way on: path of token ids -> allowed next tokens, sorted. Raises ValueError on an empty option or one that begins another."""
    allowed: dict[Path, set[int]] = {}
    ends = {tuple(option) for option in options}
    for option in options:
        if not option:
            raise ValueError("an option has no tokens")
        for at in range(len(option)):
            path = tuple(option[:at])
            if path in ends:
                raise ValueError("an option begins with another option")
            allowed.setdefault(path, set()).add(option[at])
    return {path: tuple(sorted(tokens)) for path, tokens in allowed.items() if len(tokens) > 1}


def probabilities(options: Sequence[Sequence[int]], log_probs: Mapping[Path, Mapping[int, float]]) -> list[float]:
    """Probability of each option: the product over its nodes of the next-token probability, renormalised over the allowed tokens. Sums to 1.

    `log_probs[path][token]` is needed at every node of `branches(options)`; any common offset at one node cancels. Ex: yes .2, no .1 -> yes .667.
    """
    result = []
    for option in options:
        value = 1.0
        for at in range(len(option)):
            node = log_probs.get(tuple(option[:at]))
            if node is not None:
                top = max(node.values())
                value *= math.exp(node[option[at]] - top) / sum(math.exp(other - top) for other in node.values())
        result.append(value)
    return result
