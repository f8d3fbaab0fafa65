"""One figure over several seeds: the mean, and the range that the draw alone moves it in (MISSION B2)."""

from __future__ import annotations

from collections.abc import Sequence

from planish.errors import InputError, Problem
from planish.scores import Metric


def over_seeds(name: str, values: Sequence[float]) -> Metric:
    """The mean as `<name>.over_seeds`; `low` and `high` are the least and the greatest value seen, no interval: a few draws make none. `n` counts draws.

    Ex: .70, .74, .72 give .72, from .70 to .74. Raises InputError without values."""
    if not values:
        raise InputError(Problem(name, "no seed was run", "run at least one"))
    mean = sum(values) / len(values)
    least, greatest = min(values), max(values)
    how = f"range of {len(values)} seeds"
    return Metric(name=f"{name}.over_seeds", value=mean, n=len(values), low=least, high=greatest, lower=least, upper=greatest, method=how)
