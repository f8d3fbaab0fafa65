"""Lines set aside while a data set is made: a file without a name, gone when nobody holds it any more. Forked processes read it too, each where it likes."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from io import BytesIO, FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAR, AHEAD = 1 << 12, 1 << 18
"""Bytes read for one line, and for lines that are read one after another."""


class Spool:
    """Lines by where they begin. On disk, or in memory where they are few."""

    def __init__(self, *, in_memory: bool = False) -> None:
        self._file: BytesIO | FileIO = BytesIO() if in_memory else tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._end = 0
        weakref.finalize(self, self._file.close)

    def append(self, data: bytes | memoryview) -> int:
        """Add a line that ends in a line break, or many; gives where it begins."""
        at, left = self._end, memoryview(data).cast("B")
        self._end += len(left)
        while left:
            left = left[self._file.write(left) :]
        return at

    def part(self, begin: int, end: int) -> bytes:
        """What stands between two places."""
        if isinstance(self._file, BytesIO):
            return bytes(self._file.getbuffer()[begin:end])
        return os.pread(self._file.fileno(), end - begin, begin)

    def line(self, at: int) -> bytes:
        """The line that begins there."""
        return next(self.lines((at,)))

    def lines(self, starts: Iterable[int]) -> Iterator[bytes]:
        """The lines that begin at these places, read one by one."""
        held, begin, after = b"", 0, -1
        for at in starts:
            if not begin <= at < begin + len(held):
                held, begin = self.part(at, at + (AHEAD if at == after else NEAR)), at
            stop = held.find(b"\n", at - begin)
            while stop < 0:  # twice as much each time, so that a long line is copied a few times, not once for each quarter of a megabyte
                held = held[at - begin :] + self.part(begin + len(held), begin + len(held) + max(AHEAD, len(held)))
                begin, stop = at, held.find(b"\n")
            after = begin + stop + 1
            yield held[at - begin : stop + 1]

    def numbers(self, kind: str) -> NDArray[Any]:
        """All that was appended, as numbers of one kind (_S,); what is on disk is mapped, not read."""
        if isinstance(self._file, BytesIO) or not self._end:
            return np.frombuffer(self.part(0, self._end), kind)
        return np.memmap(self._file, kind, "r")
