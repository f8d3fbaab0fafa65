"""Range coding of many whole numbers at once (rANS), each with probabilities of its own; what is written first is read first.

A symbol is an interval of 2**BITS. Symbol j of a call of L lanes goes to lane j % L; a lane is one 64-bit state, and all lanes share one run of 32-bit words, so that L symbols
cost a handful of array operations. A symbol of probability p costs -log2 p bits, a lane 4 bytes. Only whole numbers decide what is read, so that every machine
reads the same.
Sources: Duda 2013, arXiv 1311.2540; lanes: Giesen 2014, arXiv 1402.3392.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BITS = 24
SYMBOLS_PER_LANE, FEWEST, MOST = 2048, 16, 2048
"""Lanes of a run: a bit in 65 symbols for them, and about 2048 rounds of a block, whose cost hardly grows with the lanes."""
_LEAST, _SLOT = 2**31, 2**BITS - 1
_LOW, _WORD, _BITS, _FULL, _LAST = np.uint64(_LEAST), np.uint64(32), np.uint64(BITS), np.uint64(63 - BITS), np.uint64(2**32 - 1)
Ints = NDArray[np.int64]


class Coder(Protocol):
    """Writes or reads; what uses it is written once for both."""

    def pick(self, sums: Ints, low: Ints, high: Ints, given: Ints) -> Ints:
        """N symbols: place s with low <= s < high, of probability (sums[s + 1] - sums[s]) / (sums[high] - sums[low]), whose denominator is at most 2**BITS. A writer takes
        `given` (N,) and gives it back; a reader finds it."""


def _interval(sums: Ints, low: Ints, high: Ints, place: Ints) -> tuple[Ints, Ints]:
    first, whole = sums[low], sums[high] - sums[low]
    start = ((sums[place] - first) << BITS) // whole
    return start, ((sums[place + 1] - first) << BITS) // whole - start


class Writer:
    """Keeps the symbols; they are written in the reverse order, so all at the end."""

    def __init__(self) -> None:
        self._calls: list[tuple[Ints, Ints]] = []

    def pick(self, sums: Ints, low: Ints, high: Ints, given: Ints) -> Ints:
        """See Coder."""
        self._calls.append(_interval(sums, low, high, given))
        return given

    def bytes(self) -> bytes:
        """The number of lanes, their final states and the words."""
        lanes = int(np.clip(sum(len(starts) for starts, _ in self._calls) // SYMBOLS_PER_LANE, FEWEST, MOST))
        state, words = np.full(lanes, _LOW), [np.zeros(0, "<u4")]
        for starts, widths in reversed(self._calls):
            for at in reversed(range(0, len(starts), lanes)):
                start, width = starts[at : at + lanes].astype(np.uint64), widths[at : at + lanes].astype(np.uint64)
                now = state[: len(start)]
                full = now >= width << _FULL
                words.append((now[full] & _LAST).astype("<u4"))
                now = np.where(full, now >> _WORD, now)
                state[: len(start)] = (now // width << _BITS) + now % width + start
        return np.array([lanes], "<u4").tobytes() + state.astype("<u8").tobytes() + np.concatenate(words[::-1]).tobytes()


class Reader:
    """What a Writer wrote."""

    def __init__(self, data: bytes) -> None:
        lanes = int(np.frombuffer(data, "<u4", 1)[0])
        self._state = np.frombuffer(data, "<i8", lanes, 4).astype(np.int64)
        self._words, self._at = np.frombuffer(data, "<u4", offset=4 + 8 * lanes).astype(np.int64), 0

    def pick(self, sums: Ints, low: Ints, high: Ints, given: Ints) -> Ints:
        """See Coder. Raises ValueError where the bytes end too early."""
        found, lanes, firsts = np.zeros(len(low), np.int64), len(self._state), sums[low]
        wholes = sums[high] - firsts
        for at in range(0, len(low), lanes):
            first, whole = firsts[at : at + lanes], wholes[at : at + lanes]
            now = self._state[: len(first)]
            slot = now & _SLOT
            place = sums.searchsorted(first + (((slot + 1) * whole - 1) >> BITS), "right") - 1
            start = ((sums[place] - first) << BITS) // whole
            width = ((sums[place + 1] - first) << BITS) // whole - start
            now = width * (now >> BITS) + slot - start
            few = (now < _LEAST).nonzero()[0]
            if self._at + len(few) > len(self._words):
                raise ValueError("ends too early")
            now[few] = now[few] << 32 | self._words[self._at : self._at + len(few)]
            self._at += len(few)
            self._state[: len(first)] = now
            found[at : at + lanes] = place
        return found
