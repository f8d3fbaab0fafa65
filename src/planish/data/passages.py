"""Documents cut into passages that overlap, so that what a cut would tear apart stands whole in one of them (MISSION B3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from planish.errors import InputError, Problem

WORDS, OVERLAP = 200, 40
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNIT = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]+")
"""A word; in a script that puts no spaces between its words, a character."""


class Passage(NamedTuple):
    """A part of document `document`, counted from 0, with every run of white space one space, so that it takes one line of a prompt."""

    text: str
    document: int


def cut(documents: Iterable[str], *, words: int = WORDS, overlap: int = OVERLAP) -> list[Passage]:
    """The passages of the documents, in order: `words` words each, the next beginning `overlap` words before the last one's end. An empty document has none.

    The last passage of a document ends with it and may be shorter; none lies wholly within the one before. Ex: 500 words give 0-200, 160-360, 320-500.

    Raises InputError unless 0 <= overlap < words.
    """
    if not 0 <= overlap < words:
        raise InputError(Problem("overlap", f"{overlap} of {words} words: every passage would begin where the last one does", "0 <= overlap < words"))
    found = []
    for number, document in enumerate(documents):
        units = list(UNIT.finditer(document))
        for start in range(0, max(1, len(units) - overlap), words - overlap):
            part = units[start : start + words]
            if part:
                found.append(Passage(" ".join(document[part[0].start() : part[-1].end()].split()), number))
    return found
