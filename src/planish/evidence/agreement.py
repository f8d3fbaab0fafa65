"""How far two annotators agree beyond chance (MISSION P1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from planish.errors import InputError, Problem


class Agreement(NamedTuple):
    """`raw`, the share of items with one verdict; `chance`, what their habits alone would give; `kappa` = (raw - chance) / (1 - chance), None where chance is 1."""

    raw: float
    chance: float
    kappa: float | None
    n: int


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """Two annotators' verdicts on the same items, in the same order. Raises InputError without an item. Source: Cohen 1960, Educ. Psychol. Meas. 20:37."""
    if not first or len(first) != len(second):
        raise InputError(Problem("cohen_kappa", f"{len(first)} and {len(second)} verdicts", "give both annotators' verdicts on the same items, at least one"))
    n = len(first)
    raw = sum(one == other for one, other in zip(first, second, strict=True)) / n
    left, right = Counter(first), Counter(second)
    chance = sum(count * right[verdict] for verdict, count in left.items()) / n**2
    return Agreement(raw, chance, beyond_chance(raw, chance), n)


def beyond_chance(raw: float, chance: float) -> float | None:
    """Kappa of an agreement and of what chance gives; None where chance alone gives all."""
    return (raw - chance) / (1 - chance) if chance < 1 else None
