"""Lines set aside while a data set is made: a file without a name, gone when nobody holds it any more."""

from __future__ import annotations

import io
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import IO


class Spool:
    """Lines by where they begin. On disk, or in memory where they are few."""

    def __init__(self, *, in_memory: bool = False) -> None:
        self._file: IO[bytes] = io.BytesIO() if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
        self._end = 0
        weakref.finalize(self, self._file.close)

    def append(self, line: bytes) -> int:
        """Add a line that ends in a line break; gives where it begins."""
        at = self._end
        if self._file.tell() != at:
            self._file.seek(at)
        self._end += self._file.write(line)
        return at

    def line(self, at: int) -> bytes:
        """The line that begins there."""
        self._file.seek(at)
        return self._file.readline()

    def part(self, begin: int, end: int) -> bytes:
        """What stands between two places."""
        if self._file.tell() != begin:
            self._file.seek(begin)
        return self._file.read(end - begin)

    def lines(self, starts: Iterable[int]) -> Iterator[bytes]:
        """The lines that begin at these places, read one by one."""
        for at in starts:
            if self._file.tell() != at:
                self._file.seek(at)
            yield self._file.readline()
