"""Records into a file: JSONL, a JSON array, CSV, TSV (each also gzipped) or Parquet, by the file's name. The file appears only whole (MISSION D1, R-7).

A table has one type a column. What has none of its own (a list or an object; in CSV anything but text) is written as JSON text, which the reader takes where a
list or an object must stand.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from planish.errors import InputError, Problem, did_you_mean
from planish.lazy import require
from planish.store.objects import written_aside

Value = dict[str, Any]
Values = Callable[[], Iterator[Value]]

LINES, ARRAY, TABLES, PARQUET = (".jsonl", ".ndjson"), (".json",), {".csv": ",", ".tsv": "\t"}, ".parquet"
BATCH = 1024
"""Rows of a Parquet row group."""

READ_AS_JSON = frozenset(
    {"messages", "tools", "conversations", "history", "prompt", "completion", "chosen", "rejected", "completions", "labels", "entities", "fields", "documents"}
    | {"input", "preferred_output", "non_preferred_output"}
)
"""Columns in which the reader takes JSON text for the list or object that it says."""


def check(path: Path) -> None:
    """Raise InputError when the file's kind is unknown, or MissingExtra when what writes it is not installed."""
    kinds = (*LINES, *ARRAY, *TABLES, PARQUET)
    if _kind(path) not in kinds:
        raise InputError(Problem(str(path), f'files of the kind "{_kind(path) or path.name}" are not written', did_you_mean(_kind(path), kinds)))
    if _kind(path) == PARQUET:
        require("pyarrow.parquet", extra="parquet")


def retyped(path: Path, value: Value) -> list[str]:
    """The columns of a record that would be read from such a file as another type."""
    if _kind(path) in TABLES:
        return [key for key, item in value.items() if not isinstance(item, str) and not _as_json(key, item)]
    if _kind(path) == PARQUET:
        return [key for key, item in value.items() if isinstance(item, dict | list) and not _as_json(key, item)]
    return []


def _as_json(key: str, item: Any) -> bool:
    return key in READ_AS_JSON and isinstance(item, dict | list)


def write(path: Path, values: Values) -> None:
    """Write the records, which `values` gives anew each time it is called. Raises InputError when a Parquet column holds several types."""
    with written_aside(path) as aside:
        if _kind(path) == PARQUET:
            _parquet(aside, values, path)
            return
        with aside.open("wb") as raw:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:  # no name and no time: the same rows give the same bytes
                    _text(path, cast("IO[bytes]", packed), values)
            else:
                _text(path, raw, values)


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _text(path: Path, stream: IO[bytes], values: Values) -> None:
    kind = _kind(path)
    if kind in TABLES:
        _table(stream, values, TABLES[kind])
    elif kind in ARRAY:
        for number, value in enumerate(values()):
            stream.write((b",\n" if number else b"[\n") + _json(value).encode())
        stream.write(b"\n]\n")
    else:
        for value in values():
            stream.write(_json(value).encode() + b"\n")


def _json(item: Any) -> str:
    return json.dumps(item, ensure_ascii=False)


def _table(stream: IO[bytes], values: Values, delimiter: str) -> None:
    header = list(dict.fromkeys(key for value in values() for key in value))
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    quoted = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    table.writerow(header)
    for value in values():
        cells = [_cell(value.get(key)) for key in header]
        # before Python 3.13 a carriage return is quoted only where rows end with one, and every reader ends a row at a bare one
        (quoted if any("\r" in cell for cell in cells) else table).writerow(cells)
    text.detach()


def _cell(item: Any) -> str:
    return "" if item is None else item if isinstance(item, str) else _json(item)


def _parquet(aside: Path, values: Values, path: Path) -> None:
    """Two passes: one for the types of the columns, one to write."""
    pa, pq = require("pyarrow", extra="parquet"), require("pyarrow.parquet", extra="parquet")
    try:
        schemas = [pa.Table.from_pylist(batch).schema for batch in _batches(values())]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        with pq.ParquetWriter(aside, schema) as writer:
            for batch in _batches(values()):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    except (pa.ArrowException, OverflowError) as mixed:
        raise InputError(Problem(str(path), f"a column holds values of several types: {mixed}", "write .jsonl")) from mixed


def _batches(values: Iterator[Value]) -> Iterator[list[Value]]:
    keys: dict[str, None] = {}
    while batch := [{key: _json(item) if isinstance(item, dict | list) else item for key, item in value.items()} for value in islice(values, BATCH)]:
        for value in batch:
            keys.update(dict.fromkeys(value))
        yield [{key: value.get(key) for key in keys} for value in batch]
