"""Text that no task shows, from sources that every machine has: what a tuned model must not have forgotten (MISSION C4)."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Literal

from planish.errors import InputError, Problem
from planish.rows import Message, Noun

Source = Literal["held_out_text", "chat_exchanges"]
ROWS = {"held_out_text": 200, "chat_exchanges": 200}
"""Rows per source: with fewer than 200 a change of 3 points cannot be cleared."""


class GeneralRow(Noun):
    """Plain text, or an exchange of two turns whose answer is scored."""

    id: str
    source: Source
    text: str = ""
    messages: tuple[Message, ...] = ()


def rows(sources: list[Source]) -> list[GeneralRow]:
    """The rows of the sources, the same on every call. Raises InputError when a source's package is absent."""
    return [row for source in sources for row in {"held_out_text": _language_reference, "chat_exchanges": _exchanges}[source]()]


def _language_reference() -> list[GeneralRow]:
    """Paragraphs of the Python language reference, which the standard library carries for `help()`."""
    from pydoc_data.topics import topics

    paragraphs = [
        " ".join(paragraph.split())
        for name in sorted(topics)
        for paragraph in topics[name].split("\n\n")
        if len(paragraph) >= 240 and "   " not in paragraph[8:]
    ]
    drawn = random.Random(7).sample(sorted(set(paragraphs)), min(ROWS["held_out_text"], len(set(paragraphs))))
    return [GeneralRow(id=f"text-{index}", source="held_out_text", text=text[:400]) for index, text in enumerate(drawn)]


def _exchanges() -> list[GeneralRow]:
    """Questions and answers of the package chatterbot-corpus; its files are read, its code is not run."""
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
    drawn = random.Random(7).sample(sorted(pairs), min(ROWS["chat_exchanges"], len(pairs)))
    turn = [(Message(role="user", content=asked), Message(role="assistant", content=answered)) for asked, answered in drawn]
    return [GeneralRow(id=f"chat-{index}", source="chat_exchanges", messages=messages) for index, messages in enumerate(turn)]
