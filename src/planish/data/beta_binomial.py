"""How many of n fall to the left: the beta-binomial distribution, in whole numbers that a range coder can use.

P(k | n) = C(n, k) B(k + s w, n - k + s (1 - w)) / B(s w, s (1 - w)): w is the share that falls to the left on average, s how alike the n are (small: all of them together;
the last of SPREADS: each for itself, a binomial distribution but for a part in 500). A pair (w, s) is one row of the table.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from planish.data.rans import BITS, Coder, Ints

MOST = 64
"""The largest n with a table; above it every k is as likely as another."""
_EVEN = np.arange(1, 32) / 32
SHARES = _EVEN * _EVEN * (3 - 2 * _EVEN)
"""(31,) values of w: .003 to .997, finer towards both ends."""
SPREADS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 32768.0)
"""Values of s."""
ROWS = len(SHARES) * len(SPREADS)


@lru_cache(maxsize=1)
def table() -> Ints:
    """Flat running sums: place (row (MOST + 1) + n) (MOST + 2) + k. Made of + - * / alone, in one order, so that every machine has the same."""
    shares, spreads = np.tile(SHARES, len(SPREADS)), np.repeat(SPREADS, len(SHARES))
    a, b = (shares * spreads)[:, None], ((1 - shares) * spreads)[:, None]
    n = np.arange(MOST + 1.0)[None]
    weights = np.zeros((ROWS, MOST + 1, MOST + 1))
    weights[:, :, 0] = 1.0
    for k in range(MOST):
        grown = weights[:, :, k] * ((n - k) * (a + k)) / ((k + 1) * np.maximum(b + n - k - 1, 1e-6))
        weights[:, :, k + 1] = np.where(n > k, grown, 0.0)
        if k % 8 == 7:
            weights /= weights.max(axis=2, keepdims=True)
    sums = np.concatenate([np.zeros((ROWS, MOST + 1, 1)), np.cumsum(weights, axis=2)], 2)
    sums /= sums[:, :, -1:]
    places = np.minimum(np.arange(MOST + 2)[None], n.T + 1)  # each k of 0..n has a width of at least 1
    whole = np.floor(sums * (2.0**BITS - MOST - 2)) + places
    for number in range(MOST + 1):
        whole[:, number, number + 1 :] = 2.0**BITS
    flat = whole.astype(np.int64) + (np.arange(ROWS * (MOST + 1)).reshape(ROWS, MOST + 1, 1) << BITS)
    return np.asarray(flat.ravel())


def split(coder: Coder, rows: Ints, n: Ints, low: Ints, high: Ints, given: Ints) -> Ints:
    """(N,) k of each, low <= k <= high, by its row of the table."""
    found, few = np.zeros(len(n), np.int64), n <= MOST
    base = (rows[few] * (MOST + 1) + n[few]) * (MOST + 2)
    found[few] = coder.pick(table(), base + low[few], base + high[few] + 1, base + given[few]) - base
    if not few.all():
        found[~few] = low[~few] + uniform(coder, (high - low + 1)[~few], (given - low)[~few])
    return found


def uniform(coder: Coder, size: Ints, given: Ints) -> Ints:
    """(N,) whole numbers below `size`, each as likely as another."""
    return coder.pick(np.arange(int(size.max(initial=0)) + 1), np.zeros(len(size), np.int64), size, given)


def fitted(k: Ints, n: Ints, group: Ints, groups: int) -> Ints:
    """(groups,) the row that says best how k of n fell in each group."""
    use = (n <= MOST) & (n > 0)
    k, n, group = k[use], n[use], group[use]
    share = (np.bincount(group, k, groups) + 0.25) / (np.bincount(group, n, groups) + 0.5)
    nearest = np.abs(share[:, None] - SHARES).argmin(1)
    costs = []
    for index in range(len(SPREADS)):
        base = ((index * len(SHARES) + nearest[group]) * (MOST + 1) + n) * (MOST + 2) + k
        costs.append(np.bincount(group, -np.log2((table()[base + 1] - table()[base]).astype(float)), groups))
    best = np.array(costs)[::-1].argmin(0)
    return np.asarray((len(SPREADS) - 1 - best) * len(SHARES) + nearest)
