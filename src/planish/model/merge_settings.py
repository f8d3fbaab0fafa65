"""A number of a merge that may differ by layer or by tensor: mergekit's rule, key by key."""

from __future__ import annotations

import math
from collections.abc import Iterator

from planish.errors import InputError, Problem
from planish.recipe_keys import Section

RANGES = {
    "density": (math.ulp(0.0), 1.0, "a share that is kept lies above 0 and is 1 at most: 0.2"),
    "t": (0.0, 1.0, "0 is the first model, 1 the second"),
}
"""Least and most of what is no free number, and what to write."""


class Filtered(Section):
    """A value for the tensors whose name contains `filter`; for all where it is None or *."""

    filter: str | None = None
    value: float | list[float]


Setting = float | list[float] | list[Filtered]
"""A number; a list drawn out evenly over the layers; or the first entry whose filter fits a tensor's name."""


def value(setting: Setting, name: str, t: float) -> float:
    """A setting's number for one tensor. `t` is how far the tensor's layer is through the model, 0 for what is in no layer.

    Raises InputError for an empty list and where no filter fits.
    """
    if isinstance(setting, (int, float)):
        return float(setting)
    numbers: list[float] = []
    for entry in setting:
        if isinstance(entry, Filtered):
            if entry.filter in (None, "*") or str(entry.filter) in name:
                return value(entry.value, name, t)
        else:
            numbers.append(entry)
    if not numbers:
        raise InputError(Problem(name, "no entry of a setting fits this tensor", "end the list with an entry without a filter"))
    at = t * (len(numbers) - 1)
    low = min(int(at), len(numbers) - 1)
    high = min(low + 1, len(numbers) - 1)
    return (1 - (at - low)) * numbers[low] + (at - low) * numbers[high]


def out_of_range(key: str, setting: Setting | None, where: str) -> list[Problem]:
    """What of a setting is no finite number, or outside of what its key may be."""
    low, high, fix = RANGES.get(key, (-math.inf, math.inf, "give finite numbers"))
    found = dict.fromkeys(number for number in _numbers(setting) if not (math.isfinite(number) and low <= number <= high))
    return [Problem(where, f"{number} is out of range", fix) for number in found]


def _numbers(setting: Setting | None) -> Iterator[float]:
    """Every number of a setting."""
    if isinstance(setting, (int, float)):
        yield setting
        return
    for entry in setting or ():
        yield from _numbers(entry.value if isinstance(entry, Filtered) else entry)
