"""Planted defects of files: what is no JSON, no UTF-8, no table, or no single kind of row."""

from __future__ import annotations

import gzip
import json

from benchmarks.planted import sound_rows
from benchmarks.planted.case import REFUSED, Ask, Case, Expected, jsonl, planted

_CHAT = sound_rows.chat()
_PROMPTS = sound_rows.prompts()
_LABELLED = sound_rows.labelled()
_LABELS = Ask(labels=sound_rows.LABELS)
_CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n".replace(", ", " ") for row in _LABELLED)


def _line(name: str, what: str, line: int, raw: bytes, code: str, why: str = "") -> Case:
    """A defect of one line among 40 dialogues."""
    return Case(f"formats/{name}", "formats", what, "rows.jsonl", jsonl(planted(_CHAT, {line: raw})), (Expected(code, (line,), why),))


def _file(name: str, what: str, file: str, data: bytes, why: str = "") -> Case:
    """A file that must be refused as a whole, with these words in the reason."""
    return Case(f"formats/{name}", "formats", what, file, data, (Expected(REFUSED, (), why),))


def _bytes(name: str, what: str, data: bytes) -> Case:
    """A file that is no UTF-8: each line that cannot be decoded is named; the others are no JSON."""
    lines = tuple(number for number, line in enumerate(data.split(b"\n"), start=1) if line.strip() and not _decodes(line))
    return Case(f"formats/{name}", "formats", what, "rows.jsonl", data, (Expected("bad_encoding", lines),), also=("bad_json",))


def _decodes(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _csv(name: str, what: str, line: int, raw: str, code: str) -> Case:
    """A defect of one record of a table; the header is line 1."""
    lines = _CSV.splitlines()
    lines[line - 1] = raw
    return Case(f"formats/{name}", "formats", what, "rows.csv", ("\n".join(lines) + "\n").encode(), (Expected(code, (line,)),), _LABELS)


def _encoded(row: object) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


_ONE = _encoded(_CHAT[0])
_LINES = jsonl(_CHAT)
_ARRAY = json.dumps(_CHAT, indent=1).encode()

CASES = [
    _line("not_json", "one line is no JSON", 7, b"{'messages': 'single quotes'}", "bad_json"),
    _line("cut_line", "one line stops in the middle, as after a crash while it was written", 40, _encoded(_CHAT[39])[:60], "bad_json"),
    _line("two_objects", "two objects stand on one line", 12, _ONE + b" " + _encoded(_CHAT[11]), "bad_json"),
    _line("inner_bom", "a byte order mark in the middle: two files were joined", 21, b"\xef\xbb\xbf" + _encoded(_CHAT[20]), "bad_json"),
    _line(
        "nan", "NaN, which is no JSON", 5, b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": NaN}]}', "bad_json"
    ),
    _line("infinite", "a number larger than any float", 9, _ONE[:-1] + b', "score": 1e999}', "bad_json"),
    _line("nul_bytes", "a block of NUL bytes, as a full disk leaves", 33, b"\x00" * 64, "bad_json"),
    _line("deep_nesting", "JSON nested 5,000 levels deep", 14, b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", "bad_json"),
    _line(
        "repeated_key",
        "an object has one key twice; most readers keep the last one",
        17,
        b'{"messages": [{"role": "user", "content": "Who won?"}, {"role": "assistant", "content": "Rovers", "content": "City"}]}',
        "bad_json",
    ),
    _line("array_line", "one line is an array, not an object", 3, b'["user", "assistant"]', "wrong_type"),
    _line("string_line", "one line is a JSON string that holds an object: encoded twice", 8, _encoded(json.dumps(_CHAT[7])), "wrong_type"),
    _line(
        "latin_1",
        "one line is Latin-1, not UTF-8",
        19,
        '{"messages": [{"role": "user", "content": "Où est le café?"}, {"role": "assistant", "content": "À gauche."}]}'.encode("latin-1"),
        "bad_encoding",
    ),
    _line(
        "half_surrogate",
        "half of a surrogate pair: an emoji cut in two",
        26,
        b'{"messages": [{"role": "user", "content": "Hi \\ud83d"}, {"role": "assistant", "content": "Hello there."}]}',
        "bad_encoding",
    ),
    _line("unknown_shape", "one row has keys that no shape has", 30, b'{"foo": "bar"}', "unknown_shape"),
    _bytes("utf_16", "the whole file is UTF-16", _LINES.decode().encode("utf-16")),
    _file("empty_file", "the file is empty", "rows.jsonl", b"", "no row"),
    _file("only_blank_lines", "the file holds blank lines only", "rows.jsonl", b"\n\n  \n", "no row"),
    _bytes("gzip_unnamed", "a gzip file under the name .jsonl", gzip.compress(_LINES, mtime=0)),
    _file("gzip_cut", "a gzip file whose end is missing", "rows.jsonl.gz", gzip.compress(_LINES, mtime=0)[:-200], "cannot be read"),
    _file("mixed_shapes", "34 dialogues and 6 prompt-completion rows in one file", "rows.jsonl", jsonl(_CHAT[:34] + _PROMPTS[34:]), "prompt_completion 6"),
    _file("array_garbage", "words behind the closing bracket of a JSON array", "rows.json", _ARRAY + b"\nend of file", "after the closing bracket"),
    _file("array_comma", "a comma is missing between two elements of a JSON array", "rows.json", _ARRAY.replace(b"},\n {", b"}\n {", 1), "comma"),
    _file("array_cut", "a JSON array that stops in the middle", "rows.json", _ARRAY[:-400], "JSON"),
    Case(
        "formats/object_file",
        "formats",
        "one object around all rows instead of an array",
        "rows.json",
        json.dumps({"data": _CHAT}).encode(),
        (Expected("unknown_shape", (1,)),),
    ),
    _file("open_quote", "a quote in a table is never closed", "rows.csv", _CSV.replace("where is", '"where is', 1).encode(), "never closed"),
    _file("header_twice", "the header of a table names a column twice", "rows.csv", _CSV.replace("text,label", "text,text", 1).encode(), "twice"),
    Case(
        "formats/semicolons",
        "formats",
        "a table with semicolons under the name .csv",
        "rows.csv",
        _CSV.replace(",", ";").encode(),
        (Expected(REFUSED),),
    ),
    _file("parquet_cut", "a Parquet file whose end is missing", "rows.parquet", b"PAR1" + bytes(range(200)), "Parquet"),
    Case(
        "formats/unknown_columns",
        "formats",
        "columns that could be anything: none is picked silently",
        "rows.jsonl",
        jsonl([{"a": question, "b": answer, "c": question[::-1]} for question, answer in sound_rows.pairs()]),
        (Expected(REFUSED, (), "confidence"),),
    ),
    _csv("extra_cell", "a record of a table has a cell more than the header: an unquoted comma", 11, "hello, where is my parcel now,delivery", "wrong_type"),
    _csv("short_record", "a record of a table lacks its last cell", 23, "the box came open", "missing_field"),
    _csv("stray_quote", "a stray quote inside a quoted cell of a table", 31, '"the "big" box is late",delivery', "bad_json"),
]
