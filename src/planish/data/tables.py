"""Comma- and tab-separated tables under a header. Quoting is strict, so that a stray quote cannot swallow the rows behind it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from planish.data.fault import Fault
from planish.errors import InputError, Problem
from planish.rows import RejectCode

LONGEST_CELL = 1 << 24
"""Characters of a cell. One that goes on longer is no cell: a quote is not closed."""

csv.field_size_limit(LONGEST_CELL)  # Python's own is 131,072, which a document may well have

_RETURN = "new-line character seen in unquoted field"
_BOM = b"\xef\xbb\xbf"


def records(stream: IO[bytes], path: Path, delimiter: str) -> Iterator[tuple[int, bytes, dict[str, Any] | Fault]]:
    """The 1-based line on which each record begins, its bytes, and its cells by column. Raises InputError when the rest of the file cannot be told apart."""
    held: list[bytes] = []

    def lines() -> Iterator[str]:
        for number, line in enumerate(stream):
            held.append(line.removeprefix(_BOM) if number == 0 else line)
            yield held[-1].decode("utf-8", "replace")

    table = csv.reader(lines(), delimiter=delimiter, strict=True)
    header = _header(table, path)
    held.clear()
    while True:
        begins = table.line_num + 1
        value: dict[str, Any] | Fault | None
        try:
            cells = next(table)
            value = _cells(header, cells) if cells else None
        except StopIteration:
            return
        except csv.Error as broken:
            if "unexpected end" in str(broken):
                raise InputError(Problem(f"{path}:{begins}", "a quote opened here is never closed", "close it, or double quotes inside a cell")) from broken
            long = "field larger" in str(broken)
            why = f"a cell has more than {LONGEST_CELL:,} characters" if long else _why(broken)
            value = Fault(RejectCode.BAD_JSON, why, "close the quote that opens it" if long else _fix(broken, "double the quotes inside a quoted cell"))
        data = b"".join(held).rstrip(b"\r\n")
        held.clear()
        if value is not None:
            yield begins, data, value


def _why(broken: csv.Error) -> str:
    """Python's own words name a mode of opening files."""
    return "is not CSV: a carriage return stands outside quotes, and no line feed follows it" if _RETURN in str(broken) else f"is not CSV: {broken}"


def _fix(broken: csv.Error, otherwise: str) -> str:
    return "end the rows with line feeds, and quote a cell that holds a carriage return" if _RETURN in str(broken) else otherwise


def _header(table: Any, path: Path) -> list[str]:
    try:
        header: list[str] = next(table, [])
    except csv.Error as broken:
        raise InputError(Problem(f"{path}:1", _why(broken), _fix(broken, "mend the header"))) from broken
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(Problem(f"{path}:1", f"the header names a column twice: {', '.join(twice)}", "give every column its own name"))
    other = next((mark for mark in ";\t|," if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise InputError(Problem(f"{path}:1", f"its cells are separated by {other!r}", "save it with commas as .csv, or with tabs as .tsv"))
    return header


def _cells(header: list[str], cells: list[str]) -> dict[str, Any] | Fault:
    if len(cells) > len(header):
        return Fault(RejectCode.WRONG_TYPE, f"has {len(cells)} cells where the header has {len(header)}", "quote the cell that holds the delimiter")
    if len(cells) < len(header):
        why = f"has {len(cells)} cells where the header has {len(header)}: no {', no '.join(header[len(cells) :])}"
        return Fault(RejectCode.MISSING_FIELD, why, "write every cell, empty ones too")
    return dict(zip(header, cells, strict=True))
