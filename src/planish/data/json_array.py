"""The elements of a JSON array, streamed: a file of any length takes the memory of its longest element."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from planish.errors import InputError, Problem

CHUNK = 1 << 20
"""Bytes read at one time."""

MAX_ELEMENT = 64 << 20
"""Characters in which an element must end. What goes on longer is no row: most often a bracket or a quote is missing."""

_BLANK = " \t\r\n"
_EXTENT = json.JSONDecoder()  # tells where an element ends; what it holds is judged by json_text


def elements(stream: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """The 1-based line and the bytes of each element. After a broken one nothing can be told apart, so the whole file is refused there (InputError)."""
    text = _Text(stream, path)
    text.skip()
    text.take()  # the opening bracket, which the caller has seen
    if text.skip() == "]":
        text.take()
    else:
        while True:
            line = text.line
            yield line, text.element().encode("utf-8", "surrogatepass")
            mark = text.skip()
            if mark not in (",", "]"):
                raise InputError(Problem(f"{path}:{text.line}", "a comma or the closing bracket of the array is missing", "mend the file, or write JSON lines"))
            text.take()
            if mark == "]":
                break
            text.skip()
    if text.skip():
        raise InputError(Problem(str(path), "goes on after the closing bracket of its array", "keep one array in the file"))


class _Text:
    """The text of a stream, read on demand, with the line that reading has come to."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.stream, self.path = stream, path
        self.line = 1
        self._text, self._at, self._ended = "", 0, False
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._lines_read = 1

    def skip(self) -> str:
        """Step over blanks; the character that comes next, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self.line += self._text[self._at] == "\n"
                self._at += 1
            if self._at < len(self._text) or not self._more(CHUNK):
                return self._text[self._at : self._at + 1]

    def take(self) -> None:
        """Step over one character."""
        self._at += 1

    def element(self) -> str:
        """The JSON value that begins here, as it stands."""
        wanted = CHUNK
        while True:
            try:
                _, end = _EXTENT.raw_decode(self._text, self._at)
                # a number or a word may go on in the next chunk
                if end < len(self._text) or self._ended:
                    break
            except (ValueError, RecursionError) as broken:
                if self._ended or len(self._text) - self._at > MAX_ELEMENT or isinstance(broken, RecursionError):
                    fix = "mend the file, or write one JSON object per line"
                    raise InputError(Problem(f"{self.path}:{self.line}", f"is not JSON from here on: {broken}", fix)) from broken
            self._more(wanted)
            wanted *= 2  # so that a long element is tried a few times, not once a chunk
        found = self._text[self._at : end]
        self.line += found.count("\n")
        self._at = end
        return found

    def _more(self, size: int) -> bool:
        """Read on; whether there was more."""
        if self._ended:
            return False
        data = self.stream.read(size)
        self._ended = not data
        try:
            fresh = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as bad:
            line = self._lines_read + bad.object[: bad.start].count(b"\n")
            raise InputError(Problem(f"{self.path}:{line}", "is not UTF-8", "save the file as UTF-8")) from bad
        self._lines_read += data.count(b"\n")
        self._text, self._at = self._text[self._at :] + fresh, 0
        return not self._ended
