"""Replay: general rows mixed into a task's, so that training on it forgets less (MISSION C5).

    rows     n_general = n rho / (1 - rho)                       900 task rows, rho .1 -> 100
    tokens   w = rho / (1 - rho) * (task's trained tokens) / (replay's trained tokens)

A row of text trains a hundred tokens where a label trains two. So that rho is what it says, every replayed token counts w: then replay is the share rho of the loss.
"""

from __future__ import annotations

import ast
import hashlib
import random
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from planish.data import general
from planish.data.held_out import HeldOut, copied
from planish.data.reading import read_rows
from planish.data.table import Table
from planish.data.task import infer, make
from planish.data.traces import traces
from planish.errors import InputError, Problem
from planish.python_source import parsed
from planish.rows import ChatRow, Message, Origin, Row, TextRow

NEAR = 0.8
SHOWN = 20
LONGEST = 1000
"""Characters of a replayed text."""


def count(task_rows: int, share: float) -> int:
    """How many general rows make `share` of all rows."""
    return max(1, round(task_rows * share / (1 - share)))


def count_beside(size: int, rows: Sequence[Row], share: float) -> int:
    """How many of the rows are `share` of all text beside documents of `size` bytes; one more than there are where they do not suffice."""
    wanted = size * share / (1 - share)
    for index, row in enumerate(rows):
        if wanted <= 0:
            return max(1, index)
        wanted -= len(row.model_dump_json())
    return len(rows) + (wanted > 0)


def token_weight(task: float, replayed: float, share: float) -> float:
    """What each replayed token counts, so that replay is `share` of the loss. `task` and `replayed` are trained tokens (by their weights)."""
    return share / (1 - share) * task / replayed


def owned() -> list[Row]:
    """Text and exchanges that every machine has and no general suite holds: docstrings of the standard library, and chatterbot-corpus where it is installed.

    In one seeded order, the kinds mixed."""
    texts: list[Row] = [_text(index, text) for index, text in enumerate(dict.fromkeys(_docstrings()))]
    try:
        chats: list[Row] = [_chat(index, *pair) for index, pair in enumerate(general.exchanges()[1])]
    except InputError:  # the package is absent; text is replayed all the same
        chats = []
    random.Random(7).shuffle(texts)
    random.Random(7).shuffle(chats)
    paired = [row for pair in zip(texts, chats, strict=False) for row in pair]
    return paired + texts[len(chats) :] + chats[len(texts) :]


def questions() -> list[str]:
    """What the base is asked, so that its own answers can be replayed: questions that no general suite holds. Raises InputError without chatterbot-corpus."""
    asked = list(dict.fromkeys(question for question, _ in general.exchanges()[1]))
    random.Random(7).shuffle(asked)
    return asked


def question(asked: str) -> tuple[Message, ...]:
    """A question as the conversation that the base is given."""
    return (Message(role="user", content=asked),)


def answered(asked: Sequence[str], answers: Sequence[str]) -> list[Row]:
    """The base's own answers as rows; an empty one teaches nothing and is left out."""
    return [_chat(index, question, answer) for index, (question, answer) in enumerate(zip(asked, answers, strict=True)) if answer.strip()]


def from_file(path: Path) -> list[Row]:
    """A user's general rows as text and dialogues. Raises InputError naming the rows that are refused."""
    reading = read_rows(path, mixed=True, strict=False)
    if reading.rejected or not reading.n_in:
        refused = [Problem(f"{row.file}:{row.line}", row.why, row.fix) for row in reading.rejected[:SHOWN]]
        raise InputError(*(refused or [Problem(f"train.replay.rows: {path}", "holds no row", "give rows of any shape")]))
    return [_trainable(row, reading.labels) for row in reading.accepted]


class Screened(NamedTuple):
    """Rows that may be replayed, and those that hold what the evaluation asks, with what they repeat (MISSION D9)."""

    kept: list[Row]
    leaks: list[tuple[str, str, str]]
    held: set[str]


def screen(rows: Sequence[Row], evaluation: Sequence[Row]) -> Screened:
    """The rows that repeat no evaluation row: not exactly, not in a run of 13 words, not nearly. `leaks` are (row, evaluation row, method)."""
    held, against, own = HeldOut(), Table.of(evaluation), Table.of(rows)
    held.add("gold", against.ids, against.keys, traces(against))
    traced = traces(own)
    found = [leak for _, leak in copied([held], own.keys, traced)] + held.nearly(traced, NEAR)[0]
    leaks = [(rows[leak.row].id, held.names[leak.held], leak.method) for leak in found]
    dropped = {row_id for row_id, _, _ in leaks}
    return Screened([row for row in rows if row.id not in dropped], leaks, {name for _, name, _ in leaks})


def as_rows(suites: Iterable[general.GeneralRow]) -> list[Row]:
    """The rows of the general suites in the shape in which they can be held against others."""
    return [
        TextRow(id=row.id, origin=_origin(row.id, row.text), text=row.text)
        if row.text
        else ChatRow(id=row.id, origin=_origin(row.id, row.messages[0].content), messages=_whole(row))
        for row in suites
    ]


def _whole(row: general.GeneralRow) -> tuple[Message, ...]:
    return (*row.messages, Message(role="assistant", content=row.options[row.right])) if row.options else row.messages


def _trainable(row: Row, labels: tuple[str, ...]) -> Row:
    if isinstance(row, TextRow | ChatRow):
        return row
    shape = infer([row.shape], tools=bool(getattr(row, "tools", ())))
    return make(shape, labels if shape == "classification" else ()).conversation(row)


def _docstrings() -> Iterator[str]:
    """Paragraphs of the docstrings of the standard library's own modules, at least 240 characters long; files are parsed, not imported."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(parsed(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (said := ast.get_docstring(node)):
                yield from (" ".join(part.split())[:LONGEST] for part in said.split("\n\n") if len(part) >= 240 and "   " not in part)


def _text(index: int, text: str) -> TextRow:
    return TextRow(id=f"replay-text-{index}", origin=_origin("stdlib docstrings", text, index), text=text)


def _chat(index: int, asked: str, said: str) -> ChatRow:
    turns = (Message(role="user", content=asked), Message(role="assistant", content=said))
    return ChatRow(id=f"replay-chat-{index}", origin=_origin("general questions", asked, index), messages=turns)


def _origin(file: str, text: str, line: int = 0) -> Origin:
    return Origin(file=file, line=line + 1, sha256=hashlib.sha256(text.encode()).hexdigest())
