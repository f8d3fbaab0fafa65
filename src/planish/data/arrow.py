"""Rows of Parquet files, and of Arrow: streamed, never a whole file at once.

Arrow has values that JSON has not. Dates and times become ISO 8601 text and decimals their digits; NaN, which tables use for "nothing here", becomes null; bytes
(pictures, sound) have no such form, and their row is refused. In a Parquet struct every row has every key: a key that holds null counts as absent in messages.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from planish.data.fault import Fault
from planish.errors import InputError, Problem
from planish.lazy import require
from planish.rows import RejectCode

BATCH = 1024
"""Rows held at one time."""


def parquet(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | Fault]]:
    """The 1-based number of each row, the row as JSON, and the row. Raises InputError when the file is no whole Parquet file; MissingExtra without pyarrow."""
    pq = require("pyarrow.parquet", extra="parquet")
    broken = require("pyarrow", extra="parquet").ArrowException
    try:
        with pq.ParquetFile(path) as file:
            yield from plain(row for batch in file.iter_batches(BATCH) for row in _rows(batch))
    except broken as bad:
        raise InputError(Problem(str(path), f"is not a whole Parquet file: {bad}", "write it again")) from bad


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch; where text is not UTF-8, which Arrow does not check, it is given as bytes, in its row only."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield {name: _text_or_bytes(batch.column(name)[number]) for name in batch.schema.names}


def _text_or_bytes(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NotUtf8(str(scalar.type).encode() if scalar.type not in ("string", "large_string") else scalar.as_buffer().to_pybytes())


class NotUtf8(bytes):
    """Text that is not UTF-8; nested text is given as its type only."""


def plain(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[int, bytes, dict[str, Any] | Fault]]:
    """Rows of Arrow values as rows of JSON values."""
    for number, row in enumerate(rows, start=1):
        try:
            value = {str(key): _json_value(item, str(key)) for key, item in row.items()}
        except (TypeError, UnicodeError) as foreign:
            wrong, fix = (
                (RejectCode.BAD_ENCODING, "write the text as UTF-8") if isinstance(foreign, UnicodeError) else (RejectCode.WRONG_TYPE, "leave the column out")
            )
            yield number, json.dumps(row, ensure_ascii=False, default=repr).encode("utf-8", "backslashreplace"), Fault(wrong, str(foreign), fix)
            continue
        yield number, json.dumps(value, ensure_ascii=False).encode(), value


def _json_value(item: Any, column: str) -> Any:
    match item:
        case None | bool() | int() | str():
            return item
        case float():
            if math.isinf(item):
                raise TypeError(f"its {column} holds an infinite number")
            return None if math.isnan(item) else item
        case list():
            return [_json_value(part, column) for part in item]
        case dict():
            return {str(key): _json_value(part, column) for key, part in item.items()}
        case datetime.date() | datetime.time():
            return item.isoformat()
        case decimal.Decimal():
            return str(item)
        case NotUtf8():
            raise UnicodeError(f"its {column} is not UTF-8")
        case _:
            raise TypeError(f"its {column} holds a {type(item).__name__}, for which JSON has no form")
