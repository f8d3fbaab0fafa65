"""Files of rows: JSONL, a JSON array, CSV or TSV, each also gzipped; every record with its line, its raw text and its hash (MISSION D1).

The container is known by the file's name, the format of a record by its keys. A record that cannot be read is given with its fault, never dropped.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from planish.errors import InputError, Problem
from planish.rows import RejectCode

MAX_DEPTH = 64
"""Deeper JSON is refused: no row needs it, and it would exhaust the stack of whatever reads it next."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record is no row."""

    code: RejectCode
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file: the 1-based line it begins on, its raw text (undecodable bytes as \\xNN), the sha256 of its raw bytes, and what it holds."""

    line: int
    raw: str
    sha256: str
    value: dict[str, Any] | Fault


@dataclass(frozen=True)
class Format:
    """A way to write a row. A record has this format when it holds all of `keys` and none of `never`; `convert` makes the keys of `shape` from it."""

    name: str
    shape: str
    keys: tuple[str, ...]
    never: tuple[str, ...] = ()
    convert: Callable[[dict[str, Any]], dict[str, Any]] = dict


FORMATS = (
    Format("chat", "chat", ("messages",), never=("tools", "functions", "rejected_response")),
    Format("prompt_completion", "prompt_completion", ("prompt", "completion"), never=("label", "kto_tag", "chosen", "rejected")),
    Format("label", "label", ("text", "label"), never=("entities", "fields")),
    Format("text", "text", ("text",), never=("label", "entities", "fields")),
)
"""In the order of trial. `never` keeps a row of a richer format (preferences, tools, extraction) from being read as half of itself."""


def holds(value: dict[str, Any], key: str) -> bool:
    """Whether a record has something under `key`; null and an empty list are nothing."""
    return key in value and value[key] is not None and value[key] != []


def detect(value: dict[str, Any]) -> Format | None:
    """The format of a record by its keys, or None when no format has them."""
    return next((known for known in FORMATS if all(key in value for key in known.keys) and not any(holds(value, key) for key in known.never)), None)


def read_records(path: Path) -> Iterator[Record]:
    """Every record of a file in order, streamed; blank lines are no records.

    Raises InputError when the file is missing, a folder, empty, of an unknown kind, or cannot be read to its end.
    """
    reader = _reader(path)
    count = 0
    try:
        with _open(path) as stream:
            for count, record in enumerate(reader(stream, path), start=1):  # noqa: B007
                yield record
    except (OSError, EOFError, zlib.error) as unreadable:
        raise InputError(Problem(str(path), f"cannot be read: {unreadable}", "check the file and who may read it")) from unreadable
    if not count:
        raise InputError(Problem(str(path), "holds no row", "give a file with at least one row"))


def _reader(path: Path) -> Callable[[IO[bytes], Path], Iterator[Record]]:
    if not path.exists():
        raise InputError(Problem(str(path), "there is no such file", "check the path; in a recipe it is relative to the recipe's folder"))
    if path.is_dir():
        raise InputError(Problem(str(path), "is a folder", "give one file: .jsonl, .json, .csv or .tsv, or one of these with .gz"))
    suffix = _suffix(path)
    if suffix not in READERS:
        fix = "convert it to .jsonl" if suffix == ".parquet" else "known: " + ", ".join(READERS) + ", and each with .gz"
        raise InputError(Problem(str(path), f'files of the kind "{suffix or path.name}" are not read', fix))
    return READERS[suffix]


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return "." + name.rpartition(".")[2] if "." in name else ""


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _jsonl(stream: IO[bytes], path: Path) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        data = line.rstrip(b"\r\n")
        if number == 1:
            data = data.removeprefix(_BOM)
        if data.strip():
            yield _record(number, data, _json_value)


def _json(stream: IO[bytes], path: Path) -> Iterator[Record]:
    """A JSON array, or JSON lines under the name .json."""
    data = stream.read().removeprefix(_BOM)
    if not data.lstrip().startswith(b"["):
        stream.seek(0)
        yield from _jsonl(stream, path)
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        line = data.count(b"\n", 0, bad.start) + 1
        raise InputError(Problem(f"{path}:{line}", "is not UTF-8", "save the file as UTF-8")) from bad
    yield from _array(text, path)


def _array(text: str, path: Path) -> Iterator[Record]:
    """The elements of a JSON array. After a broken one nothing can be told apart, so the whole file is refused there."""
    at, line, counted = _blank(text, text.index("[") + 1), 1, 0
    if text[at : at + 1] == "]":
        return
    while True:
        line, counted = line + text.count("\n", counted, at), at
        try:
            _, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as broken:
            raise InputError(Problem(f"{path}:{line}", f"is not JSON from here on: {broken}", "mend the file, or write one JSON object per line")) from broken
        yield _record(line, text[at:end].encode("utf-8", "surrogatepass"), _json_value)
        at = _blank(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            line += text.count("\n", counted, at)
            raise InputError(Problem(f"{path}:{line}", "a comma or the closing bracket of the array is missing", "mend the file, or write JSON lines"))
        at = _blank(text, at + 1)
    if text[at + 1 :].strip():
        raise InputError(Problem(str(path), "goes on after the closing bracket of its array", "keep one array in the file"))


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _csv(stream: IO[bytes], path: Path) -> Iterator[Record]:
    yield from _table(stream, path, ",")


def _tsv(stream: IO[bytes], path: Path) -> Iterator[Record]:
    yield from _table(stream, path, "\t")


def _table(stream: IO[bytes], path: Path, delimiter: str) -> Iterator[Record]:
    """Comma- or tab-separated records under a header; quoting is strict, so that a stray quote cannot swallow the rows behind it."""
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
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as broken:
            if "unexpected end" in str(broken):
                raise InputError(Problem(f"{path}:{begins}", "a quote opened here is never closed", "close it, or double quotes inside a cell")) from broken
            fault = Fault(RejectCode.BAD_JSON, f"is not CSV: {broken}", "double the quotes inside a quoted cell")
            yield _record(begins, b"".join(held).rstrip(b"\r\n"), lambda _, fault=fault: fault)  # type: ignore[misc]
            held.clear()
            continue
        data = b"".join(held).rstrip(b"\r\n")
        held.clear()
        if cells:
            yield _record(begins, data, lambda _, cells=cells: _cells(header, cells))  # type: ignore[misc]


def _header(table: Any, path: Path) -> list[str]:
    try:
        header: list[str] = next(table, [])
    except csv.Error as broken:
        raise InputError(Problem(f"{path}:1", f"is not CSV: {broken}", "mend the header")) from broken
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(Problem(f"{path}:1", f"the header names a column twice: {', '.join(twice)}", "give every column its own name"))
    return header


def _cells(header: list[str], cells: list[str]) -> dict[str, Any] | Fault:
    if len(cells) > len(header):
        return Fault(RejectCode.WRONG_TYPE, f"has {len(cells)} cells where the header has {len(header)}", "quote the cell that holds the delimiter")
    return dict(zip(header, cells, strict=False))  # a short record lacks its last fields, and is refused for it where they are needed


READERS: dict[str, Callable[[IO[bytes], Path], Iterator[Record]]] = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _tsv}


def _record(line: int, data: bytes, value: Callable[[str], dict[str, Any] | Fault]) -> Record:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        text = data.decode("utf-8", "backslashreplace")
        fault = Fault(RejectCode.BAD_ENCODING, f"byte {bad.start + 1} of the line is not UTF-8", "save the file as UTF-8")
        return Record(line, text, hashlib.sha256(data).hexdigest(), fault)
    return Record(line, text, hashlib.sha256(data).hexdigest(), value(text))


def _json_value(text: str) -> dict[str, Any] | Fault:
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        return Fault(RejectCode.BAD_JSON, f"is nested deeper than {MAX_DEPTH} levels", "write a flat object")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as broken:  # ValueError also holds an integer of more digits than Python reads
        return Fault(RejectCode.BAD_JSON, f"is not JSON: {broken}", "write one JSON object per line")
    if not isinstance(value, dict):
        return Fault(RejectCode.WRONG_TYPE, f"is a {type(value).__name__}, not an object", 'write one object per line: {"text": ..., "label": ...}')
    if "\\u" in text and not _encodes(value):
        return Fault(RejectCode.BAD_ENCODING, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character", "write the whole character")
    return value


def _depth(text: str) -> int:
    """How deep brackets nest; those inside strings do not count."""
    deepest = depth = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted, escaped = (character != '"' or escaped), (character == "\\" and not escaped)
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


def _encodes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is larger than any number that can be kept")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
