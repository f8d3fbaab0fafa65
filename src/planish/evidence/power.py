"""What a gold set can see before it is used: rows for a paired test, and the smallest drop n rows detect (MISSION D10)."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from scipy.stats import binom  # type: ignore[import-untyped]

from planish.errors import InputError, Problem

MINIMUM_ROWS = 30  # below: refused
ADVISED_ROWS = 200  # below: runs, and says need_more_gold when the interval does not decide
RECOMMENDED_ROWS = 400
FLIP = 0.03  # share of rows that flip each way although nothing changed (decoding ties, batching, kernels)


def rows_needed(discordance: float, gain: float, *, alpha: float = 0.05, power: float = 0.8, sides: int = 2) -> int:
    """Gold rows on which a paired test sees `gain` (difference of two shares, 0..1) with `power`, when a share `discordance` of rows differs.

    n = (z_alpha sqrt(d) + z_power sqrt(d - g^2))^2 / g^2. Raises InputError unless 0 < gain <= discordance <= 1: a gain of g needs at least g of
    the rows to differ. Source: Connor 1987, Biometrics 43:207; MISSION D10."""
    if not 0 < gain <= discordance <= 1:
        raise InputError(Problem("power", f"a gain of {gain:g} with {discordance:g} of the rows differing", "0 < gain <= discordance <= 1"))
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / sides), NormalDist().inv_cdf(power)
    exact = ((z_alpha * math.sqrt(discordance) + z_power * math.sqrt(discordance - gain**2)) / gain) ** 2
    return math.ceil(exact - 1e-9)


def mcnemar_power(n: int, drop: float, *, flip: float = FLIP, alpha: float = 0.05) -> float:
    """Exact power of the one-sided exact McNemar test on n rows: `flip + drop` of the rows get worse, `flip` get better (shares, 0..1).

    Summed over the number of discordant rows m ~ Binomial(n, 2 flip + drop) and, given m, the worsened ~ Binomial(m, (flip + drop) / (2 flip + drop))."""
    differing = 2 * flip + drop
    if n < 1 or drop < 0 or not 0 <= flip <= 1 or differing > 1:
        raise InputError(Problem("power", f"{n} rows, drop {drop:g}, flips {flip:g} each way", "n >= 1, and drop + 2 flip between 0 and 1"))
    if differing == 0:
        return 0.0
    m = np.arange(int(binom.ppf(1e-12, n, differing)), int(binom.isf(1e-12, n, differing)) + 1)
    critical = binom.isf(alpha, m, 0.5)  # reject when more than this many discordant rows got worse
    return float(np.sum(binom.pmf(m, n, differing) * np.where(m > 0, binom.sf(critical, m, (flip + drop) / differing), 0.0)))


@lru_cache(maxsize=256)
def minimum_detectable_drop(n: int, *, flip: float = FLIP, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest drop (share, 0..1) that one-sided exact McNemar on n rows finds with `power`; None when no drop is found that often."""
    low, high = 0.0, 1.0 - 2 * flip
    if mcnemar_power(n, high, flip=flip, alpha=alpha) < power:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if mcnemar_power(n, middle, flip=flip, alpha=alpha) >= power else (middle, high)
    return high
