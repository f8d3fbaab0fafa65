"""The documents that answers are looked up in: plain text files whole, rows of the shape `text` one by one, and those that question rows carry (MISSION B3)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from planish.data.reading import read_rows
from planish.errors import InputError, Problem
from planish.rows import QuestionRow, Row, TextRow

PLAIN = (".txt", ".md", ".rst")


def read(path: Path) -> list[str]:
    """The documents of a file or of every file below a folder, in the order of their paths: a .txt, .md or .rst file is one, any other is read as rows with a `text`.

    Raises InputError naming every file that cannot be read and every row that is no text, and where there is none at all."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    found: list[str] = []
    problems: list[Problem] = []
    for file in files:
        try:
            found += [file.read_text(encoding="utf-8")] if file.suffix.lower() in PLAIN else _rows(file)
        except (OSError, UnicodeDecodeError) as unreadable:
            problems.append(Problem(str(file), f"cannot be read: {unreadable}", "give UTF-8 text, or rows with a text"))
        except InputError as refused:
            problems += refused.problems
    if not problems and not any(text.strip() for text in found):
        problems = [Problem(str(path), "holds no document", "give .txt, .md or .rst files, or rows with a text")]
    if problems:
        raise InputError(*problems)
    return found


def carried(rows: Iterable[Row]) -> list[str]:
    """The documents that rows bring along, each once, in order."""
    return list(dict.fromkeys(document for row in rows if isinstance(row, QuestionRow) for document in row.documents))


def _rows(file: Path) -> list[str]:
    reading = read_rows(file, shape="text", strict=False, compared=False)
    if reading.rejected:
        raise InputError(*(Problem(f"{row.file}:{row.line}", row.why, row.fix) for row in reading.rejected[:20]))
    return [row.text for row in reading.accepted if isinstance(row, TextRow)]
