"""Containers and formats (MISSION D1)."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from planish.data.formats import FORMATS, Fault, detect, read_records
from planish.errors import InputError
from planish.rows import RejectCode


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"text": "x, y", "label": "a"}\n\n{"text": "z", "label": "b"}\r\n'),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "x, y", "label": "a"}\n{"text": "z", "label": "b"}'),
        ("a.json", b'[\n {"text": "x, y", "label": "a"},\n {"text": "z", "label": "b"}\n]\n'),
        ("a.json", b'{"text": "x, y", "label": "a"}\n{"text": "z", "label": "b"}\n'),
        ("a.csv", b'text,label\n"x, y",a\n\nz,b\n'),
        ("a.tsv", b"\xef\xbb\xbftext\tlabel\nx, y\ta\nz\tb\n"),
    ],
)
def test_every_container_gives_the_same_rows(tmp_path: Path, name: str, data: bytes, gz: str) -> None:
    values = [record.value for record in read_records(_write(tmp_path, name + gz, data))]
    assert values == [{"text": "x, y", "label": "a"}, {"text": "z", "label": "b"}]


def test_a_record_knows_its_line_its_raw_text_and_its_hash(tmp_path: Path) -> None:
    first, second = read_records(_write(tmp_path, "a.jsonl", b'{"text": "a"}\n\n{"text": "b"}\r\n'))
    assert (first.line, second.line) == (1, 3)
    assert second.raw == '{"text": "b"}'
    assert second.sha256 == hashlib.sha256(b'{"text": "b"}').hexdigest()


def test_lines_of_an_array_and_of_a_table_are_those_of_the_file(tmp_path: Path) -> None:
    array = read_records(_write(tmp_path, "a.json", b'[\n{"text":\n "a"},\n\n{"text": "b"}]'))
    assert [record.line for record in array] == [2, 5]
    table = list(read_records(_write(tmp_path, "a.csv", b'text,label\n"a\nb",x\nc,y\n')))
    assert [record.line for record in table] == [2, 4]
    assert table[0].value == {"text": "a\nb", "label": "x"}
    assert table[0].raw == '"a\nb",x'


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"not JSON", RejectCode.BAD_JSON),
        (b'{"text": NaN}', RejectCode.BAD_JSON),
        (b'{"text": 1e999}', RejectCode.BAD_JSON),
        (b'{"text": ' + b"9" * 5000 + b"}", RejectCode.BAD_JSON),
        (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}", RejectCode.BAD_JSON),
        (b'{"text": ' + b"[" * 80 + b"]" * 80 + b"}", RejectCode.BAD_JSON),
        (b'["text"]', RejectCode.WRONG_TYPE),
        (b'"text"', RejectCode.WRONG_TYPE),
        (b'{"text": "caf\xe9"}', RejectCode.BAD_ENCODING),
        (b'{"text": "\\ud800"}', RejectCode.BAD_ENCODING),
    ],
)
def test_a_record_that_cannot_be_read_is_given_with_its_fault(tmp_path: Path, line: bytes, code: RejectCode) -> None:
    good, bad = read_records(_write(tmp_path, "a.jsonl", b'{"text": "\\ud83d\\ude00 [[[ {{{"}\n' + line + b"\n"))
    assert good.value == {"text": "\U0001f600 [[[ {{{"}
    assert isinstance(bad.value, Fault)
    assert (bad.line, bad.value.code) == (2, code)
    assert bad.value.why
    assert bad.value.fix
    bad.raw.encode("utf-8")


def test_bad_table_records_do_not_take_their_neighbours_along(tmp_path: Path) -> None:
    records = list(read_records(_write(tmp_path, "a.csv", b'text,label\na,x\n"b"c,x\nd,x,y\ne\n\xff,x\nf,x\n')))
    codes = [record.value.code if isinstance(record.value, Fault) else record.value for record in records]
    assert codes == [
        {"text": "a", "label": "x"},
        RejectCode.BAD_JSON,
        RejectCode.WRONG_TYPE,
        {"text": "e"},
        RejectCode.BAD_ENCODING,
        {"text": "f", "label": "x"},
    ]
    assert records[4].raw == "\\xff,x"


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.jsonl", b"", "holds no row"),
        ("a.jsonl", b"\n \n", "holds no row"),
        ("a.csv", b"text,label\n", "holds no row"),
        ("a.json", b"[]", "holds no row"),
        ("a.json", b'[{"a": 1}, {"a": }]', "is not JSON from here on"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "a comma or the closing bracket"),
        ("a.json", b'[{"a": 1}] x', "goes on after"),
        ("a.json", b'[\n"\xff"]', "is not UTF-8"),
        ("a.csv", b'text,label\n"a,x\nb,y\n', "a quote opened here is never closed"),
        ("a.csv", b"text,text\na,b\n", "names a column twice"),
        ("a.parquet", b"PAR1", "are not read"),
        ("rows", b"x", "are not read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_whole(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        list(read_records(_write(tmp_path, name, data)))
    assert refused.value.exit_code == 2
    assert all(problem.where and problem.fix for problem in refused.value.problems)


def test_a_missing_file_a_folder_and_a_cut_archive_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "a.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-12])
    for path, why in ((tmp_path / "none.jsonl", "no such file"), (tmp_path, "is a folder"), (cut, "cannot be read")):
        with pytest.raises(InputError, match=why):
            list(read_records(path))


def test_a_format_is_told_by_its_keys() -> None:
    assert {known.name for known in FORMATS} == {"chat", "prompt_completion", "label", "text"}
    told = {
        "chat": {"messages": [], "tools": []},
        "prompt_completion": {"prompt": "a", "completion": "b", "x": 1},
        "label": {"text": "a", "label": "b"},
        "text": {"text": "a", "source": "b"},
    }
    for name, value in told.items():
        found = detect(value)
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize(
    "value",
    [{"foo": 1}, {"prompt": "a", "completion": "b", "label": False}, {"messages": [], "tools": [{"name": "f"}]}, {"text": "a", "entities": [{"type": "x"}]}],
)
def test_a_richer_format_is_not_read_as_half_of_itself(value: dict[str, object]) -> None:
    """A KTO row (`label: false` marks a bad answer) read as prompt and completion would train on the bad answer."""
    assert detect(value) is None
