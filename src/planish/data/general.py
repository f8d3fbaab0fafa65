"""What a tuned model must not have forgotten: suites that no task shows, from sources that every machine has, and a user's own broad set (MISSION C4).

held_out_text    paragraphs of the Python language reference          every token is predicted
chat_exchanges   questions and answers of chatterbot-corpus           every token of the answer is predicted
reasoning        puzzles that reasoning-gym makes and verifies        the right answer against three wrong ones
instructions     how an answer must look: upper case, three bullets   the answer that keeps the instruction against three that do not
own              rows of the user's, of any shape                     as text, as an answer, or (labels) as a choice
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from planish.data import instructions, reasoning
from planish.data.reading import read_rows
from planish.data.task import infer, make
from planish.errors import InputError, Problem
from planish.rows import LabelRow, Message, Noun, Row, TextRow

Source = Literal["held_out_text", "chat_exchanges", "reasoning", "instructions"]
ROWS = 200
"""Rows of a suite: with fewer than 200 a change of 3 points cannot be cleared."""
OWN, OWN_LABELS = "own", "own_labels"
"""The suites of the user's rows: those whose tokens are predicted, and those that choose a label."""
SHOWN = 20


class GeneralRow(Noun):
    """Plain text, an exchange whose last turn is scored, or a question with `options`, of which number `right` is the right one.

    With `unasked`, the question without what is tested, an option counts by how much likelier the question makes it than `unasked` does."""

    id: str
    source: str
    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    options: tuple[str, ...] = ()
    right: int = 0
    unasked: tuple[Message, ...] = ()


def rows(sources: Sequence[Source], own: Path | None = None) -> list[GeneralRow]:
    """The rows of the suites and of the user's own file, the same on every call. Raises InputError when a suite's package is absent or a row of the file is refused."""
    made: dict[str, Callable[[], list[GeneralRow]]] = {
        "held_out_text": _language_reference,
        "chat_exchanges": _exchanges,
        "reasoning": lambda: _choices("reasoning", [("", *asked) for asked in reasoning.questions(ROWS)]),
        "instructions": lambda: _choices("instructions", instructions.questions(ROWS)),
    }
    return [row for source in dict.fromkeys(sources) for row in made[source]()] + (_own(own) if own is not None else [])


def _language_reference() -> list[GeneralRow]:
    """Paragraphs of the Python language reference, which the standard library carries for `help()`."""
    from pydoc_data.topics import topics

    paragraphs = [
        " ".join(paragraph.split())
        for name in sorted(topics)
        for paragraph in topics[name].split("\n\n")
        if len(paragraph) >= 240 and "   " not in paragraph[8:]
    ]
    drawn = random.Random(7).sample(sorted(set(paragraphs)), min(ROWS, len(set(paragraphs))))
    return [GeneralRow(id=f"text-{index}", source="held_out_text", text=text[:400]) for index, text in enumerate(drawn)]


def _exchanges() -> list[GeneralRow]:
    turn = [(Message(role="user", content=asked), Message(role="assistant", content=answered)) for asked, answered in exchanges()[0]]
    return [GeneralRow(id=f"chat-{index}", source="chat_exchanges", messages=messages) for index, messages in enumerate(turn)]


def exchanges() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Questions and answers of the package chatterbot-corpus (its files are read, its code is not run): those of the suite, and the others, whose questions the suite has not.

    Raises InputError when the package is absent.
    """
    from ruamel.yaml import YAML

    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is None or spec.origin is None:
        fix = "pip install --no-deps chatterbot-corpus==1.2.0, or take chat_exchanges out of evaluate.general"
        raise InputError(Problem("evaluate.general: chat_exchanges", "its package is not installed", fix))
    pairs = set()
    for path in sorted((Path(spec.origin).parent / "data" / "english").glob("*.yml")):
        for conversation in YAML(typ="safe").load(path.read_text(encoding="utf-8"))["conversations"]:
            turns = [str(turn).strip() for turn in conversation]
            if len(turns) == 2 and 20 <= len(turns[1]) <= 200:
                pairs.add((turns[0], turns[1]))
    drawn = random.Random(7).sample(sorted(pairs), min(ROWS, len(pairs)))
    asked = {question for question, _ in drawn}
    return drawn, [pair for pair in sorted(pairs) if pair[0] not in asked]


def _choices(source: str, questions: Sequence[tuple[str, str, tuple[str, ...]]]) -> list[GeneralRow]:
    """Questions, before each what is asked without the thing tested ("": nothing), with their options, the right one first, in an order drawn for each."""
    made = []
    for index, (bare, question, options) in enumerate(questions):
        order = random.Random(index).sample(range(len(options)), len(options))
        asked, shuffled = (Message(role="user", content=question),), tuple(options[place] for place in order)
        unasked = (Message(role="user", content=bare),) if bare else ()
        made.append(GeneralRow(id=f"{source}-{index}", source=source, messages=asked, options=shuffled, right=order.index(0), unasked=unasked))
    return made


def _own(path: Path) -> list[GeneralRow]:
    """The user's rows, each in the way its shape allows. Raises InputError naming the rows that are refused: a suite is whole or it is none."""
    reading = read_rows(path, mixed=True, strict=False)
    if reading.rejected or not reading.n_in:
        refused = [Problem(f"{row.file}:{row.line}", row.why, row.fix) for row in reading.rejected[:SHOWN]]
        raise InputError(*(refused or [Problem(f"evaluate.general_rows: {path}", "holds no row", "give rows of any shape")]))
    return [_own_row(row, reading.labels) for row in reading.accepted]


def _own_row(row: Row, labels: tuple[str, ...]) -> GeneralRow:
    if isinstance(row, TextRow):
        return GeneralRow(id=f"{OWN}-{row.id}", source=OWN, text=row.text)
    if isinstance(row, LabelRow):
        asked = make("classification", labels).asked(row)
        return GeneralRow(id=f"{OWN}-{row.id}", source=OWN_LABELS, messages=asked.messages, options=labels, right=labels.index(row.label))
    chat = make(infer([row.shape], tools=bool(getattr(row, "tools", ())))).conversation(row)
    return GeneralRow(id=f"{OWN}-{row.id}", source=OWN, messages=chat.messages, tools=chat.tools)
