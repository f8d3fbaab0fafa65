"""Files as they come: pipes, other encodings, files that are still written, one id for all rows; each named for what it is (MISSION D1, D2)."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path

import pytest

from planish.data import json_text
from planish.data.containers import read_records
from planish.data.fault import Fault
from planish.data.reading import read_rows
from planish.errors import InputError

ROW = '{"prompt": "How many legs has an ant?", "completion": "Six."}'


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes to this pipe: opening it would wait for ever. Rows are read twice, and a pipe gives them once."""
    os.mkfifo(tmp_path / "rows.jsonl")
    for path in (tmp_path / "rows.jsonl", Path("-"), Path(os.devnull)):
        with pytest.raises(InputError, match="is a pipe or a device"):
            next(read_records(path))


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_in_utf_16_is_refused(tmp_path: Path, name: str, encoding: str) -> None:
    """Spreadsheets write it. Read as UTF-8 it has columns that nobody named."""
    (tmp_path / name).write_bytes("text\tlabel\na\tb\n".encode(encoding))
    with pytest.raises(InputError, match="is UTF-16 text"):
        list(read_records(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_lines_in_utf_16_are_named_as_such(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(f"{ROW}\n{ROW}\n".encode(encoding))
    found = [record.value for record in read_records(tmp_path / "rows.jsonl")]
    assert {value.fix for value in found[:2] if isinstance(value, Fault)} == {"save the file as UTF-8: this is UTF-16"}


def test_a_gzip_file_without_its_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(gzip.compress(ROW.encode()))
    value = next(read_records(tmp_path / "rows.jsonl")).value
    assert isinstance(value, Fault)
    assert "end in .gz" in value.fix


@pytest.mark.parametrize(
    ("line", "why", "fix"),
    [
        (f"{ROW},", "Extra data", "take the comma"),
        (f"[{ROW},", "is not JSON", "let its name end in .json"),
        ("{", "is not JSON", "stands over several"),
        ('"prompt": "How many legs has an ant?",', "is not JSON", "stands over several"),
        (ROW.replace("How", "\0How"), "is not JSON", "remove the NUL bytes"),
        (f"{ROW}\r{ROW}", "is not JSON", "end the lines with line feeds"),
        ('{"text": "a", "text": "b"}', '"text" stands twice', "keep one of the two"),
        ('{"text": "a", "score": NaN}', "NaN is no JSON number", "write null"),
        ('{"text": "a", "score": -Infinity}', "-Infinity is no JSON number", "write null"),
        ('{"text": "a", "score": 1e999}', "1e999 is larger", "write it as text"),
        ('{"text": "a", "n": ' + "9" * 6000 + "}", "a number has 6000 digits", "write it as text"),
        ('{"text": "a"', "is not JSON", "write one JSON object per line"),
    ],
)
def test_the_fix_is_about_what_is_wrong(line: str, why: str, fix: str) -> None:
    found = json_text.decode(line.encode())
    assert isinstance(found, Fault)
    assert why in found.why
    assert fix in found.fix


def test_an_integer_beyond_64_bits_is_kept(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{ROW[:-1]}, "id": {10**30}, "n": {10**40}}}\n', encoding="utf-8")
    (row,) = read_rows(tmp_path / "rows.jsonl").accepted
    assert row.id == str(10**30)
    assert row.extra["n"] == 10**40


def test_a_cell_may_be_a_long_document(tmp_path: Path) -> None:
    """Python's own limit is 131,072 characters."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "word " * 40_000 + ",a\nshort,b\n", encoding="utf-8")
    assert len(read_rows(tmp_path / "rows.csv").accepted) == 2


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """A row that is added behind the reader would be in the data or not by chance."""
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{ROW}\n" * 10_000, encoding="utf-8")
    records = read_records(path)
    next(records)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{ROW}\n")
    with pytest.raises(InputError, match="changed while it was read"):
        list(records)


def test_one_id_for_all_rows_is_made_many_at_once(tmp_path: Path) -> None:
    """A column of one value under the name id: the 20,000th row must not try 19,999 names before its own."""
    path = tmp_path / "rows.jsonl"
    rows = [{"id": "x-2"}, *({"id": "x"} for _ in range(20_000))]
    path.write_text("".join(json.dumps(row | {"prompt": f"question {n}", "completion": "a"}) + "\n" for n, row in enumerate(rows)), encoding="utf-8")
    began = time.process_time()
    ids = read_rows(path).accepted.ids
    assert time.process_time() - began < 15
    assert ids[:4] == ["x-2", "x", "x-3", "x-4"]
    assert len(set(ids)) == 20_001


def test_a_kind_that_is_not_read_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"known: \.jsonl"):
        next(read_records(tmp_path / "rows.txt"))
