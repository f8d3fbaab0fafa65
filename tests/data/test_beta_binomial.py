"""The beta-binomial table against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom

from planish.data.beta_binomial import MOST, SHARES, SPREADS, fitted, split, table
from planish.data.rans import BITS, Reader, Writer


@pytest.mark.parametrize("spread", range(len(SPREADS)))
@pytest.mark.parametrize("n", [1, 2, 13, 64])
def test_it_is_scipys_beta_binomial(spread: int, n: int) -> None:
    """To 1e-5, of which each k has 2**-24 at least."""
    for place, share in enumerate(SHARES):
        base = ((spread * len(SHARES) + place) * (MOST + 1) + n) * (MOST + 2)
        widths = np.diff(table()[base : base + n + 2])
        assert widths.min() >= 1
        assert widths.sum() == 2**BITS
        s = SPREADS[spread]
        want = betabinom.pmf(np.arange(n + 1), n, s * share, s * (1 - share))
        assert np.abs(widths / 2**BITS - want).max() < 1e-5


def test_what_is_written_is_read_between_its_bounds() -> None:
    """Also above the table's largest n, where every k is as likely as another."""
    random = np.random.default_rng(0)
    n = random.integers(0, 200, 3000)
    rows, k = random.integers(0, len(SHARES) * len(SPREADS), 3000), (n * random.random(3000)).astype(np.int64)
    low, high = (k * random.random(3000)).astype(np.int64), k + ((n - k) * random.random(3000)).astype(np.int64)
    writer = Writer()
    split(writer, rows, n, low, high, k)
    assert (split(Reader(writer.bytes()), rows, n, low, high, k * 0) == k).all()


def test_the_row_that_fits_is_found() -> None:
    """4000 draws of each of three known distributions: the share within its neighbours, the spread within a step of two."""
    random = np.random.default_rng(1)
    known = [(0.1, 2.0), (0.5, 16.0), (0.8, 32768.0)]
    n = np.full(12000, 20)
    k = np.concatenate([betabinom.rvs(20, s * w, s * (1 - w), size=4000, random_state=random) for w, s in known])
    rows = fitted(k, n, np.repeat(np.arange(3), 4000), 3).astype(int)
    for row, (share, spread) in zip(rows, known, strict=True):
        assert SHARES[row % len(SHARES)] == pytest.approx(share, abs=0.03)
        assert abs(np.log2(SPREADS[row // len(SHARES)] / spread)) <= 1
