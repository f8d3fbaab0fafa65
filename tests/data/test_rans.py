"""The range coder: what is written is read, at the price that its probabilities say."""

from __future__ import annotations

import numpy as np
import pytest

from planish.data.rans import BITS, Ints, Reader, Writer

CALLS = (0, 1, 300, 40_000)


def drawn(seed: int) -> tuple[Ints, list[Ints], float]:
    """Running sums of 500 weights, symbols drawn by them in several calls, and what they cost in bytes: -log2 p each."""
    random = np.random.default_rng(seed)
    sums = np.concatenate([[0], np.cumsum(random.integers(1, 2**14, 500))])
    p = np.diff(sums) / sums[-1]
    symbols = [random.choice(500, count, p=p) for count in CALLS]
    return sums, symbols, float(-np.log2(p[np.concatenate(symbols)]).sum() / 8)


def written(sums: Ints, symbols: list[Ints]) -> bytes:
    writer = Writer()
    for each in symbols:
        assert (writer.pick(sums, np.zeros_like(each), np.full_like(each, 500), each) == each).all()
    return writer.bytes()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read_and_costs_its_entropy(seed: int) -> None:
    """Within 1 % of -log2 p, beside 4 bytes for each of 16 lanes and 4 for their number."""
    sums, symbols, cost = drawn(seed)
    data = written(sums, symbols)
    reader = Reader(data)
    for each in symbols:
        nothing = np.zeros_like(each)
        assert (reader.pick(sums, nothing, nothing + 500, nothing) == each).all()
    assert cost * 0.999 < len(data) < cost * 1.01 + 16 * 8 + 4


def test_a_part_of_the_sums_is_its_own_distribution() -> None:
    """Of weights 1, 2, 4, 8 the middle two alone have 1/3 and 2/3: 900 symbols of each in that share cost 300 log2 3 + 600 log2 1.5 bits = 103 bytes for 900 in all."""
    sums = np.array([0, 1, 3, 7, 15])
    symbols = np.array([1, 2, 2] * 300)
    writer = Writer()
    writer.pick(sums, np.full(900, 1), np.full(900, 3), symbols)
    data = writer.bytes()
    assert (Reader(data).pick(sums, np.full(900, 1), np.full(900, 3), symbols * 0) == symbols).all()
    assert len(data) - 4 - 16 * 4 == pytest.approx((300 * np.log2(3) + 600 * np.log2(1.5)) / 8, abs=16 * 4)


def test_a_certain_symbol_costs_nothing() -> None:
    """One symbol of the whole interval; and the least likely there can be, one in 2**24."""
    many = np.full(100_000, 7)
    writer = Writer()
    writer.pick(np.arange(10), many, many + 1, many)
    empty = Writer().bytes()
    assert len(writer.bytes()) == len(empty) + (100_000 // 2048 - 16) * 8
    sums, rare, one = np.array([0, 2**BITS - 1, 2**BITS]), np.ones(1, np.int64), np.zeros(1, np.int64)
    writer = Writer()
    writer.pick(sums, one, one + 2, rare)
    assert Reader(writer.bytes()).pick(sums, one, one + 2, one) == rare


def test_a_cut_run_is_refused() -> None:
    sums, symbols, _ = drawn(0)
    data = written(sums, symbols)
    reader = Reader(data[: len(data) // 2 // 4 * 4])
    *first, last = symbols
    for each in first:
        reader.pick(sums, each * 0, each * 0 + 500, each * 0)
    with pytest.raises(ValueError, match="ends too early"):
        reader.pick(sums, last * 0, last * 0 + 500, last * 0)
