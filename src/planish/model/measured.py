"""What the tokens of a data set look like, row by row: how long, how much of it trained, and which rows cannot be; measured once for all who ask."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.parallel import map_chunks
from planish.data.table import ROW, Table
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.mask import Dialogue, Turns
from planish.model.template import Refused
from planish.rows import ChatRow, RejectCode

CHUNK = 512


class Fault(NamedTuple):
    """Why a row cannot be trained on."""

    code: RejectCode
    why: str


class Measure(NamedTuple):
    """One row: its tokens up to the last trained one, the trained ones, and where the first of them stands; a `fault` leaves them 0. `special`: a token its text spells."""

    length: int
    scored: int
    first: int
    fault: Fault | None
    special: str | None


@dataclass(frozen=True)
class Measured:
    """All rows of a table, in order."""

    ids: list[str]
    rows: list[Measure]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N',) tokens of the rows that can be trained on."""
        return np.array([row.length for row in self.rows if row.fault is None], np.int64)

    @property
    def scored(self) -> int:
        """Trained tokens of all rows."""
        return sum(row.scored for row in self.rows)

    @property
    def share(self) -> float:
        """Trained tokens over all tokens, 0 where there are none."""
        total = sum(row.length for row in self.rows)
        return self.scored / total if total else 0.0

    def faults(self) -> list[tuple[str, Fault]]:
        """Row ids with their faults."""
        return [(id, row.fault) for id, row in zip(self.ids, self.rows, strict=True) if row.fault]


def measure(rows: Table, chat: Chat, turns: Turns = "all") -> Measured:
    """Every row of a table of dialogues rendered, tokenised and masked, on every core where there are many.

    Rows that were measured before with the same chat are not measured again, so that several checks cost one pass. Raises InputError for a row that is no dialogue.
    """
    known = _known(rows.spool, chat, turns)
    places = rows.at.tolist()
    new = [place not in known for place in places]
    if any(new):
        _CURRENT[0] = chat  # a forked process finds it here, where an argument would be copied for every chunk
        parts = map_chunks(partial(_measure, turns), rows.where(new).lines(), chunk=CHUNK)
        known.update(zip((place for place, is_new in zip(places, new, strict=True) if is_new), chain.from_iterable(parts), strict=True))
        _CURRENT[0] = None
    return Measured(rows.ids, [known[place] for place in places])


_CURRENT: list[Chat | None] = [None]
_LAST: list[tuple[Any, Any, Turns, dict[int, Measure]]] = []


def _known(spool: Any, chat: Chat, turns: Turns) -> dict[int, Measure]:
    """What is known of the rows of this file, by their places in it: kept for the file and the chat that were asked about last."""
    if _LAST:
        last_spool, last_chat, last_turns, known = _LAST[0]
        if last_spool() is spool and last_chat() is chat and last_turns == turns:
            return known
    _LAST[:] = [(weakref.ref(spool), weakref.ref(chat), turns, {})]
    return _LAST[0][3]


def _measure(turns: Turns, lines: list[bytes]) -> list[Measure]:
    chat = _CURRENT[0]
    assert chat is not None
    rows = [_dialogue(line) for line in lines]
    found = []
    for row, masked in zip(rows, chat.masks([Dialogue(row.messages, row.tools) for row in rows], turns), strict=True):
        special = next((token for message in row.messages if (token := chat.tokens.special_in(message.content))), None)
        if isinstance(masked, Refused):
            found.append(Measure(0, 0, 0, Fault(masked.code, masked.why), special))
        else:
            found.append(Measure(len(masked.ids), masked.scored, masked.spans[0].start, None, special))
    return found


def _dialogue(line: bytes) -> ChatRow:
    row = ROW.validate_json(line)
    if not isinstance(row, ChatRow):
        raise InputError(
            Problem(f"row {row.id}", f"is a {row.shape} row, and tokens are measured of dialogues", "give the task, so that rows become dialogues")
        )
    return row
