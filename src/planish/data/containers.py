"""Files of rows: JSONL, a JSON array, CSV, TSV (each also gzipped), Parquet, a folder of these, a hub data set; every record with its line, raw text and hash.

The container is known by the name. A record that cannot be read is given with its fault, never dropped (MISSION D1, R-2).
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from planish.data import arrow, hub, json_array, tables
from planish.data.fault import Fault
from planish.data.json_text import decode, decode_lines
from planish.errors import InputError, Problem
from planish.rows import RejectCode

BLOCK = 1 << 18
"""Bytes read at one time: a thousand short rows."""

_BOM = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """One record: the 1-based line it begins on, its raw text (undecodable bytes as \\xNN), the sha256 of its raw bytes, what it holds, and its file's name.

    In a Parquet file or a hub data set, where there are no lines, the line is the number of the row and the raw text its JSON.
    """

    line: int
    raw: str
    sha256: str
    value: dict[str, Any] | Fault
    file: str = ""


class Lines(NamedTuple):
    """Whole lines of JSON as they stand in the file from line `line` on, not decoded yet: who has many decodes them on many cores."""

    line: int
    data: bytes
    file: str


def records_of(block: Lines | Record) -> list[Record]:
    """The records that a block holds; blank lines are none."""
    if isinstance(block, Record):
        return [block]
    numbered = enumerate(block.data.split(b"\n"), start=block.line)
    held = [(number, line.rstrip(b"\r")) for number, line in numbered if line and not line.isspace()]
    values = decode_lines(block.data, [line for _, line in held])
    return [Record(*_text(number, line), value, block.file) for (number, line), value in zip(held, values, strict=True)]


def read_records(path: Path | str) -> Iterator[Record]:
    """Every record of `read_blocks`, decoded. Raises as it does."""
    return chain.from_iterable(map(records_of, read_blocks(path)))


def read_blocks(path: Path | str) -> Iterator[Lines | Record]:
    """Every record of a file, of the files of a folder by name, or of a hub data set, in order, streamed; blank lines are no records.

    Raises InputError when a file is missing, empty, of an unknown kind, a table in UTF-16, changed meanwhile, or cannot be read to its end; MissingExtra where a
    package for it is not installed.
    """
    if hub.named(path):
        name = str(path)
        yield from _some(name, (Record(*_text(line, data), value, name) for line, data, value in hub.rows(name)))
        return
    path = Path(path)
    if str(path) == "-" or (path.exists() and not path.is_dir() and not path.is_file()):
        why = "is a pipe or a device; rows are looked at more than once, so they must stand in a file"
        raise InputError(Problem(str(path), why, "write them to a file first: ... > rows.jsonl"))
    if not path.exists():
        raise InputError(Problem(str(path), "there is no such file", "check the path; in a recipe it is relative to the recipe's folder"))
    if not path.is_dir():
        yield from _file(path, path.name)
        return
    for file in _folder(path):
        yield from _file(file, file.relative_to(path).as_posix())


def _folder(folder: Path) -> list[Path]:
    """The data files of a folder, by name; hidden ones and other kinds are no data."""
    if (folder / "manifest.json").exists() and (folder / "gold.json").exists():
        raise InputError(Problem(str(folder), "is a planish data set: its gold rows must not be trained on", "give the file it was made from"))
    files = [path for path in shown(folder) if _suffix(path) in KINDS]
    if not files:
        raise InputError(Problem(str(folder), "holds no data file", _kinds()))
    return files


def shown(folder: Path) -> list[Path]:
    """The files below a folder, by name, but for hidden ones and those in hidden folders."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _file(path: Path, name: str) -> Iterator[Lines | Record]:
    suffix = _suffix(path)
    if suffix not in KINDS:
        raise InputError(Problem(str(path), f'files of the kind "{suffix or path.name}" are not read', _kinds()))
    try:
        before = _stamp(path)
        if suffix == PARQUET:
            yield from _some(str(path), (Record(*_text(line, data), value, name) for line, data, value in arrow.parquet(path)))
        else:
            with _open(path) as stream:
                yield from _some(str(path), READERS[suffix](stream, path, name))
        if _stamp(path) != before:
            raise InputError(Problem(str(path), "changed while it was read", "wait until it is written whole, then give the same command again"))
    except (OSError, EOFError, zlib.error) as unreadable:
        raise InputError(Problem(str(path), f"cannot be read: {unreadable}", "check the file and who may read it")) from unreadable


def _stamp(path: Path) -> tuple[int, int, int]:
    """What is another when a file was written to, or replaced."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _refuse_wide(stream: IO[bytes], path: Path) -> None:
    """Refuse a table in UTF-16 or UTF-32, which spreadsheets write: read as UTF-8 it has columns that nobody named."""
    begin = stream.peek(2)[:2]  # type: ignore[attr-defined]
    if begin in (b"\xff\xfe", b"\xfe\xff") or b"\0" in begin:
        raise InputError(Problem(str(path), "is UTF-16 text, not UTF-8", f"save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"))


def _some(where: str, blocks: Iterator[Lines] | Iterator[Record]) -> Iterator[Lines | Record]:
    empty = True
    for block in blocks:
        empty = empty and isinstance(block, Lines) and not block.data.strip()
        yield block
    if empty:
        raise InputError(Problem(where, "holds no row", "give a file with at least one row"))


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return "." + name.rpartition(".")[2] if "." in name else ""


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _text(line: int, data: bytes) -> tuple[int, str, str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "backslashreplace")
    return line, text, hashlib.sha256(data).hexdigest()


def _jsonl(stream: IO[bytes], path: Path, name: str) -> Iterator[Lines]:
    number, held, size = 1, list[bytes](), 0  # the pieces of a line that goes on, and their bytes
    while data := stream.read(BLOCK):
        whole, end, rest = data.rpartition(b"\n")
        if end:
            whole = b"".join([*held, whole])
            yield Lines(number, whole.removeprefix(_BOM) if number == 1 else whole, name)
            number, held, size = number + whole.count(b"\n") + 1, [], 0
        held.append(rest)
        size += len(rest)
        if size > json_array.MAX_ELEMENT:
            fix = "write one JSON object per line" + ("; of a file that is one array let the name end in .json" if held[0].lstrip()[:1] == b"[" else "")
            raise InputError(Problem(f"{path}:{number}", f"goes on for more than {size >> 20} MiB without a line end, so it is no row", fix))
    rest = b"".join(held)
    if rest:
        yield Lines(number, rest.removeprefix(_BOM) if number == 1 else rest, name)


def _json(stream: IO[bytes], path: Path, name: str) -> Iterator[Lines] | Iterator[Record]:
    """A JSON array, or JSON lines under the name .json."""
    begin = stream.peek(4096).removeprefix(_BOM).lstrip()  # type: ignore[attr-defined]
    if begin.startswith((b"{\n", b"{\r\n")):
        fix = "give the array of rows that is in it as the file, or write one object per line"
        raise InputError(Problem(str(path), "is one JSON object over several lines, not an array of rows", fix))
    if not begin.startswith(b"["):
        return _jsonl(stream, path, name)
    return (Record(*_text(line, data), decode(data), name) for line, data in json_array.elements(stream, path))


def _table(stream: IO[bytes], path: Path, name: str, *, delimiter: str) -> Iterator[Record]:
    _refuse_wide(stream, path)
    for line, data, value in tables.records(stream, path, delimiter):
        number, text, digest = _text(line, data)
        try:
            data.decode()
        except UnicodeDecodeError as bad:
            value = Fault(RejectCode.BAD_ENCODING, f"byte {bad.start + 1} of the record is not UTF-8", "save the file as UTF-8")
        yield Record(number, text, digest, value, name)


PARQUET = ".parquet"
READERS: dict[str, Callable[[IO[bytes], Path, str], Iterator[Lines] | Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
KINDS = (*READERS, PARQUET)


def _kinds() -> str:
    return "known: " + ", ".join(READERS) + ", each also with .gz, and " + PARQUET
