"""Containers (MISSION D1): files of every kind give the same records, and nothing of a broken one is lost."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from planish.data import documents
from planish.data.contract import Refused, row_from
from planish.data.formats import Fault, read_records
from planish.errors import InputError, MissingExtra
from planish.rows import Origin, RejectCode


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
        (b'{"text": [-1e999]}', RejectCode.BAD_JSON),
        (b'{"text": "a", "text": "b"}', RejectCode.BAD_JSON),
        (b'{"text": {"a" : 1, "a" : 2, "b": "\\":"}}', RejectCode.BAD_JSON),
        (b'{"text": "a"} {"text": "b"}', RejectCode.BAD_JSON),
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
        RejectCode.MISSING_FIELD,
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
        ("a.json", b'{\n "train": [["text", "label"]]\n}\n', "is one JSON object over several lines"),
        ("a.json", b'[{"a": 1}, {"a": }]', "is not JSON from here on"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "a comma or the closing bracket"),
        ("a.json", b'[{"a": 1}] x', "goes on after"),
        ("a.json", b'[\n"\xff"]', "is not UTF-8"),
        ("a.csv", b'text,label\n"a,x\nb,y\n', "a quote opened here is never closed"),
        ("a.csv", b"text,text\na,b\n", "names a column twice"),
        ("a.parquet", b"PAR1", "is not a whole Parquet file"),
        ("a.xlsx", b"x", 'files of the kind ".xlsx" are not read'),
        ("rows", b"x", "are not read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_whole(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        list(read_records(_write(tmp_path, name, data)))
    assert refused.value.exit_code == 2
    assert all(problem.where and problem.fix for problem in refused.value.problems)


def test_a_missing_file_and_a_cut_archive_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "a.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-12])
    for path, why in ((tmp_path / "none.jsonl", "no such file"), (cut, "cannot be read")):
        with pytest.raises(InputError, match=why):
            list(read_records(path))


def test_a_folder_is_its_data_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    _write(tmp_path, "b.csv", b"text,label\nx,a\n")
    _write(tmp_path, "a.jsonl.gz", b'{"text": "y"}\n\n{"text": "z"}\n')
    _write(tmp_path, "deep/c.json", b'[{"text": "w"}]')
    _write(tmp_path, "README.md", b"about")
    _write(tmp_path, ".hidden.jsonl", b"{}")
    found = [(record.file, record.line, record.value) for record in read_records(tmp_path)]
    assert found == [
        ("a.jsonl.gz", 1, {"text": "y"}),
        ("a.jsonl.gz", 3, {"text": "z"}),
        ("b.csv", 2, {"text": "x", "label": "a"}),
        ("deep/c.json", 1, {"text": "w"}),
    ]


def test_a_folder_without_data_and_a_data_set_of_ours_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "README.md", b"about")
    with pytest.raises(InputError, match="holds no data file"):
        list(read_records(tmp_path))
    for name in ("manifest.json", "gold.json", "rows.jsonl"):
        _write(tmp_path, name, b"{}")
    with pytest.raises(InputError, match="gold rows must not be trained on"):
        list(read_records(tmp_path))


def test_a_long_array_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the pieces it is read in, the elements, their lines and what is wrong are the same."""
    data = json.dumps([{"text": "é" * number, "n": [1, {"a": -12.5e3}]} for number in range(60)], indent=1, ensure_ascii=False).encode()
    whole = list(read_records(_write(tmp_path, "a.json", data)))
    assert len(whole) == 60
    assert [record.line for record in whole[:3]] == [2, 11, 20]
    for size in (1, 2, 7, 100):
        monkeypatch.setattr("planish.data.json_array.CHUNK", size)
        assert list(read_records(tmp_path / "a.json")) == whole
        _write(tmp_path, "bad.json", b"[" + b"\n" * 100 + b'"caf\xe9"]')
        with pytest.raises(InputError, match=r"bad\.json:101: is not UTF-8"):
            list(read_records(tmp_path / "bad.json"))


def test_an_element_that_never_ends_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.data.json_array.CHUNK", 16)
    monkeypatch.setattr("planish.data.json_array.MAX_ELEMENT", 64)
    path = _write(tmp_path, "a.json", b'[{"text": "' + b"a" * 100_000)
    with pytest.raises(InputError, match=r"a\.json:1: is not JSON from here on"):
        list(read_records(path))


def test_lines_are_the_same_whatever_they_are_read_in_and_one_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of 0 to 700 bytes read in pieces of 1, 7 and 64; then an array in one line under the name of JSON lines, of which more than it may have is never held."""
    data = b"\xef\xbb\xbf" + b"\n".join(json.dumps({"text": "é" * number}, ensure_ascii=False).encode() + b"\n" * (number % 3) for number in range(340))
    whole = list(read_records(_write(tmp_path, "a.jsonl", data)))
    assert len(whole) == 340
    assert [record.line for record in whole[:5]] == [1, 2, 4, 7, 8]
    for size in (1, 7, 64):
        monkeypatch.setattr("planish.data.containers.BLOCK", size)
        assert list(read_records(tmp_path / "a.jsonl")) == whole
    monkeypatch.setattr("planish.data.json_array.MAX_ELEMENT", 64)
    path = _write(tmp_path, "b.jsonl", b'{"text": "a"}\n[' + b'{"text": "a"}, ' * 100 + b"]")
    with pytest.raises(InputError, match=r"(?s)b\.jsonl:2: goes on for more than .* of a file that is one array let the name end in \.json"):
        list(read_records(path))


def test_parquet_rows_are_json_rows(tmp_path: Path) -> None:
    """Row groups are read one by one; a table's dates, decimals and NaN have a JSON form, infinity has none, and that row is given with its fault."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    when = datetime.datetime(2024, 2, 29, 12, 30)
    rows = [
        {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "4", "weight": 1}], "n": 1.5, "when": when, "cost": Decimal("1.10")},
        {"messages": None, "n": math.nan, "when": None, "cost": None},
        {"messages": [], "n": math.inf, "when": when, "cost": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=1)
    records = list(read_records(tmp_path / "a.parquet"))
    assert [record.line for record in records] == [1, 2, 3]
    turns = [{"role": "user", "content": "é", "weight": None}, {"role": "assistant", "content": "4", "weight": 1}]
    assert records[0].value == {"messages": turns, "n": 1.5, "when": "2024-02-29T12:30:00", "cost": "1.10"}
    assert records[1].value == {"messages": None, "n": None, "when": None, "cost": None}
    assert json.loads(records[0].raw) == records[0].value
    assert records[0].sha256 == hashlib.sha256(records[0].raw.encode()).hexdigest()
    assert isinstance(records[2].value, Fault)
    assert "infinite" in records[2].value.why
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="is not a whole Parquet file"):
        list(read_records(tmp_path / "cut.parquet"))


def test_parquet_bytes_are_a_fault_of_their_row(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": ["a", "b"], "picture": [None, b"\xff"]}), tmp_path / "a.parquet")
    good, bad = read_records(tmp_path / "a.parquet")
    assert good.value == {"text": "a", "picture": None}
    assert isinstance(bad.value, Fault)
    assert bad.value.code == RejectCode.WRONG_TYPE


def test_parquet_text_that_is_not_utf_8_is_a_fault_of_its_row(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": pa.array([b"a", b"caf\xe9", b"b"], pa.binary()).view(pa.string())}), tmp_path / "a.parquet")
    values = [record.value for record in read_records(tmp_path / "a.parquet")]
    assert values[::2] == [{"text": "a"}, {"text": "b"}]
    assert isinstance(values[1], Fault)
    assert values[1].code == RejectCode.BAD_ENCODING


def test_without_its_package_the_install_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, "a.parquet", b"PAR1")
    for name in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    for path, extra in ((tmp_path / "a.parquet", "parquet"), ("hub:owner/name", "hub")):
        with pytest.raises(MissingExtra, match=rf'pip install "planish\[{extra}\]"'):
            list(read_records(path))


def _outcomes(path: Path) -> Iterator[str]:
    """What becomes of each record of a file."""
    for record in read_records(path):
        record.raw.encode()
        if isinstance(record.value, Fault):
            yield "fault"
            continue
        try:
            row_from(record.value, origin=Origin(file=record.file, line=record.line, sha256=record.sha256))
        except Refused:
            yield "refused"
        else:
            yield "accepted"


def _mutated(rng: random.Random, data: bytes) -> bytes:
    """The file with something broken in it: bytes changed, cut, repeated, or swapped."""
    kind, at, end = rng.randrange(5), rng.randrange(len(data)), rng.randrange(len(data) + 1)
    at, end = min(at, end), max(at, end)
    match kind:
        case 0:
            return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 4))) + data[at + rng.randint(0, 3) :]
        case 1:
            return data[:at]
        case 2:
            return data[:end] + data[at:]
        case 3:
            return data[:at] + rng.choice([b'"', b"{", b"[", b"\\", b"\n", b",", b"\x00", b"\xff", b"\xef\xbb\xbf", b"NaN", b"1e999", b"\\ud800"]) + data[at:]
        case _:
            return data[at:]


def test_d_5000_mutated_files_give_an_error_or_rows_never_a_traceback(tmp_path: Path) -> None:
    """Issue 3: any of 5,000 mutated files gives an error or rows, each accepted or refused with a reason; seeded, so that a failure repeats."""
    rng = random.Random(3)
    rows = [{"text": 'a "b", c', "label": "x"}, {"text": "é\U0001f600", "label": "y"}]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    sound = {
        "a.jsonl": "".join(
            json.dumps(row) + "\n" for row in [*rows, {"messages": turns, "tools": []}, {"prompt": "p", "chosen": "a", "rejected": "b"}]
        ).encode(),
        "a.json": json.dumps(rows, indent=1, ensure_ascii=False).encode(),
        "a.csv": 'text,label\n"a ""b"", c",x\né\U0001f600,y\n'.encode(),
        "a.jsonl.gz": gzip.compress(json.dumps(rows[0]).encode() * 3, mtime=0),
    }
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "sound.parquet")
    sound["a.parquet"] = (tmp_path / "sound.parquet").read_bytes()
    counts: Counter[str] = Counter()
    for _ in range(5000):
        (name,) = rng.choices(list(sound), weights=[4, 4, 4, 2, 1])  # .gz and .parquet take long to open
        path = tmp_path / name
        path.unlink(missing_ok=True)  # a file that is written over is flushed to disk first, by many file systems
        path.write_bytes(_mutated(rng, sound[name]))
        try:
            counts.update(_outcomes(path))
        except InputError as whole:
            counts["file" if all(problem.where and problem.why and problem.fix for problem in whole.problems) else "unexplained"] += 1
    assert not counts["unexplained"]
    assert min(counts[kind] for kind in ("fault", "refused", "accepted", "file")) > 100


def test_documents_of_a_folder_leave_hidden_files_out_and_marks_of_their_encoding(tmp_path: Path) -> None:
    """`.DS_Store` is no document; the byte order mark that some editors write is no letter of the text. A kind that is never read is known before anything is."""
    (tmp_path / ".DS_Store").write_bytes(b"\0\1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.txt").write_text("hidden", encoding="utf-8")
    (tmp_path / "a.txt").write_text("one", encoding="utf-8-sig")
    assert documents.read(tmp_path) == ["one"]
    assert documents.other_shapes(tmp_path) == []
    (tmp_path / "README").write_text("two", encoding="utf-8")
    assert ["README" in problem.where for problem in documents.other_shapes(tmp_path)] == [True]
