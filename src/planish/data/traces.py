"""What of a row is compared with other rows, worked out once for all checks that ask, and kept on disk beside the rows (MISSION D6, D9)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from struct import Struct
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from planish.data.normalise import normalised
from planish.data.parallel import map_chunks
from planish.data.shingles import hashes_of, units_of, word_units, words, words_of
from planish.data.spool import Spool
from planish.data.table import ROW, Table
from planish.data.texts import body_text, final_answer, prompt_text
from planish.rows import ChatRow, LabelRow, PromptCompletionRow, QuestionRow, Row

WORDS = 5
"""A question of fewer words is recognised only exactly, with everything around it: "summarise this" is asked of many texts."""

_HEAD = Struct("<5I?2I")
"""Of a trace on disk: where each of its five texts ends, and the rest."""


class Trace(NamedTuple):
    """What is compared of a row. Units and words are those of `shingles`.

    `prompt`: digest of the prompt, and `shingles`: its units (both empty below 5 words); `asked`: its words; `body` and `whole`: words and units of everything;
    `tells`: whether the prompt holds the whole answer; `sizes`: characters of prompt and answer, of which a label is none.
    """

    prompt: bytes
    shingles: bytes
    asked: bytes
    body: bytes
    whole: bytes
    tells: bool
    sizes: tuple[int, int]


def trace(row: Row) -> Trace:
    """The trace of a row."""
    prompt, everything = prompt_text(row), body_text(row)
    folded = normalised(prompt)
    said = words_of(folded)
    asked = hashes_of(said)
    if everything.isascii() and everything.startswith(prompt):  # elsewhere a normal form may reach over the line break between the two
        rest = words(everything[len(prompt) :])
        found, body = said + rest, asked + hashes_of(rest)
    else:
        found = words(everything)
        body = hashes_of(found)
    answer = final_answer(row)
    tells = _gives_away(row, prompt, asked, answer)
    sizes = (len(prompt), 0 if isinstance(row, LabelRow) else len(answer))
    if len(said) < WORDS:
        return Trace(b"", b"", asked, body, units_of(found, body), tells, sizes)
    digest = hashlib.sha256(folded.encode("utf-8", "surrogatepass")).digest()[:16]
    return Trace(digest, units_of(said, asked), asked, body, units_of(found, body), tells, sizes)


def traces(rows: Table) -> Iterator[Trace]:
    """The trace of every row, in order. Rows whose traces were asked for before, with others of their file, are not read again."""
    kept = _KEPT.get(rows.spool)
    if kept is None or not np.isin(rows.at, kept.places).all():
        kept = _KEPT[rows.spool] = _Kept.of(rows)
    return kept.of_places(rows.at)


def _gives_away(row: Row, prompt: str, asked: bytes, answer: str) -> bool:
    """Whether what the user says holds the whole answer, of five words at least."""
    if not isinstance(row, ChatRow | PromptCompletionRow | QuestionRow):
        return False
    if isinstance(row, ChatRow):
        said = "\n".join([turn.content for turn in row.messages[:-1] if turn.role == "user"])
        asked = asked if said == prompt else word_units(said)
    answered = word_units(answer)
    at = asked.find(answered) if len(answered) >= 4 * WORDS else -1
    while at > 0 and at % 4:  # between two words only
        at = asked.find(answered, at + 1)
    return at >= 0


@dataclass(frozen=True)
class _Kept:
    """Traces on disk: `places` (N,) of their rows, ascending, and where each begins and ends in the file, (N + 1,)."""

    spool: Spool
    places: NDArray[np.int64]
    edges: NDArray[np.int64]

    @staticmethod
    def of(rows: Table) -> _Kept:
        spool, sizes = Spool(), list[int]()
        for packed, lengths in map_chunks(_packed, Table(rows.spool, np.sort(rows.at), rows.keys).lines()):
            spool.append(packed)
            sizes += lengths
        return _Kept(spool, np.sort(rows.at), np.array(list(accumulate(sizes, initial=0)), np.int64))

    def of_places(self, places: NDArray[np.int64]) -> Iterator[Trace]:
        at = np.searchsorted(self.places, places)
        return map(_unpacked, map(self.spool.part, self.edges[at].tolist(), self.edges[at + 1].tolist()))


_KEPT: WeakKeyDictionary[Spool, _Kept] = WeakKeyDictionary()


def _packed(lines: list[bytes]) -> tuple[bytes, list[int]]:
    made = []
    for line in lines:
        *parts, tells, sizes = trace(ROW.validate_json(line))
        _, *ends = accumulate(map(len, parts), initial=_HEAD.size)
        made.append(b"".join((_HEAD.pack(*ends, tells, *sizes), *parts)))
    return b"".join(made), list(map(len, made))


def _unpacked(packed: bytes) -> Trace:
    prompt, shingles, words, body, whole, tells, *sizes = _HEAD.unpack_from(packed)
    texts = (packed[_HEAD.size : prompt], packed[prompt:shingles], packed[shingles:words], packed[words:body], packed[body:whole])
    return Trace(*texts, tells, (sizes[0], sizes[1]))
