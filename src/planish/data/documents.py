"""The documents that answers are looked up in: plain text files whole, rows of the shape `text` one by one, and those that question rows carry (MISSION B3)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from planish.data.containers import read_records, shown
from planish.data.fault import Fault
from planish.data.formats import detect, fitting
from planish.data.reading import read_rows
from planish.errors import InputError, PlanishError, Problem
from planish.rows import QuestionRow, Row, TextRow

PLAIN = (".txt", ".md", ".rst")
FIRST = 20
"""Rows of a file that show what it holds."""


def read(path: Path) -> list[str]:
    """The documents of a file or of every file below a folder, in the order of their paths: a .txt, .md or .rst file is one, any other is read as rows with a `text`.

    Raises InputError naming every file that cannot be read and every row that is no text, and where there is none at all."""
    files = _files(path)
    found: list[str] = []
    problems: list[Problem] = []
    for file in files:
        try:
            found += [file.read_text(encoding="utf-8-sig")] if file.suffix.lower() in PLAIN else _rows(file)
        except (OSError, UnicodeDecodeError) as unreadable:
            problems.append(Problem(str(file), f"cannot be read: {unreadable}", "give UTF-8 text, or rows with a text"))
        except InputError as refused:
            problems += refused.problems
    if not problems and not any(text.strip() for text in found):
        problems = [Problem(str(path), "holds no document", "give .txt, .md or .rst files, or rows with a text")]
    if problems:
        raise InputError(*problems)
    return found


def other_shapes(path: Path) -> list[Problem]:
    """Rows of a shape of their own that is not `text`, among the first of each file below a path: `read` refuses them too, once it has read everything. What cannot be read
    is left to it, but for files of a kind that is never read."""
    found = list[Problem]()
    for file in (file for file in _files(path) if file.suffix.lower() not in PLAIN):
        try:
            first = list(islice(read_records(file), FIRST))
        except InputError as refused:
            found += refused.problems
            continue
        except (OSError, UnicodeDecodeError, PlanishError):
            continue
        for record in first:
            shape = None if isinstance(record.value, Fault) or fitting(record.value, "text") is not None else detect(record.value)
            if shape is not None and shape.shape != "text":
                fix = "give .txt, .md or .rst files, or rows with a text; dialogues and answers are for an entry with objective: sft"
                found.append(Problem(f"{file}:{record.line}", f"is a {shape.shape} row, no document", fix))
                break
    return found


def carried(rows: Iterable[Row]) -> list[str]:
    """The documents that rows bring along, each once, in order."""
    return list(dict.fromkeys(document for row in rows if isinstance(row, QuestionRow) for document in row.documents))


def _files(path: Path) -> list[Path]:
    return shown(path) if path.is_dir() else [path]


def _rows(file: Path) -> list[str]:
    reading = read_rows(file, shape="text", strict=False, compared=False)
    if reading.rejected:
        raise InputError(*(Problem(f"{file}:{row.line}", row.why, row.fix) for row in reading.rejected[:20]))
    return [row.text for row in reading.accepted if isinstance(row, TextRow)]
