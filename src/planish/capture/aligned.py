"""A teacher of this machine with another vocabulary, read where both tokenizers write the same token (MISSION S1).

The teacher reads each row as its own template and tokenizer write it. Inside an answer, a token of the student's that begins and ends at the same bytes as one of the teacher's is
the same token: there the teacher's likeliest tokens become the student's by what they spell, and one that the student has no word for stays in the tail. Any other token is
trained without a teacher and counted; under 95 % of them alike, nothing is captured.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from planish.capture import local
from planish.capture.asked import How
from planish.capture.local import LocalTeacher
from planish.data.capture_file import CapturedRow, Said
from planish.data.tree import Sequence
from planish.errors import InputError, PlanishError, Problem
from planish.model import bundled
from planish.model.chat import Chat, Refused
from planish.model.teacher import Wanted, read
from planish.model.token_bytes import TokenBytes
from planish.rows import ChatRow


def teacher(how: How, chat: Chat, relative_to: Path | None) -> LocalTeacher:
    """The model of a name or folder; a plain one where it has the student's tokenizer. Raises InputError for what only a teacher of the same tokens can do."""
    folder = bundled.locate(how.teacher, relative_to)
    own = Chat.load(folder)
    if own.tokenizer_hash == chat.tokenizer_hash:
        return local.teacher(how, chat, relative_to)
    problems = []
    if how.answers != "rows":
        fix = "use --answers rows; for its own answers write them down first (--text) and capture over those rows"
        problems.append(Problem("--align", "a teacher of other tokens reads the rows' answers, it does not write them here", fix))
    if how.tail_samples:
        problems.append(Problem("--align --tail-samples", "what is drawn from the tail may be no word of the student's", "leave --tail-samples out"))
    if problems:
        raise InputError(*problems)
    return AlignedTeacher(folder, chat, own, Wanted(how.k, how.mass, how.temperatures), how)


class AlignedTeacher(LocalTeacher):
    """`student` renders what is kept, `own` what the teacher reads."""

    def __init__(self, folder: Path, student: Chat, own: Chat, wanted: Wanted, how: How) -> None:
        super().__init__(folder, own, wanted, how)
        self.student, self.identity = student, f"{self.identity}+aligned"
        self.mine, self.theirs = TokenBytes(student.tokenizer), TokenBytes(own.tokenizer)

    def captured(self, rows: Seq[ChatRow]) -> list[CapturedRow | PlanishError | Refused]:
        """Each row in the student's tokens, or why it failed."""
        made = [_both(self.student, self.chat, row) for row in rows]
        pairs = [one for one in made if not isinstance(one, Refused)]
        said = iter(read(self.engine.model, [theirs for _, theirs in pairs], self.wanted, self.engine.precision))
        return [one if isinstance(one, Refused) else self._row(row, *one, next(said)) for row, one in zip(rows, made, strict=True)]

    def _row(self, row: ChatRow, mine: Sequence, theirs: Sequence, said: Said) -> CapturedRow:
        found = self._renamed(said, alike(mine, theirs, self.mine, self.theirs))
        first = int(mine.scored[0])
        return CapturedRow(row.id, mine.ids[:first], mine.ids[first:], tuple(weight > 0 for weight in mine.weights[first:]), found, "given")

    def _renamed(self, said: Said, places: Seq[int | None]) -> Said:
        """The teacher's word at `places`, one for each of the student's trained tokens, by the student's ids. Of two that spell alike the likelier is kept."""
        starts, tops = [0, *np.cumsum(said.counts).tolist()], list[dict[int, float]]()
        for place in places:
            own: dict[int, float] = {}
            for at in range(*(starts[place], starts[place + 1]) if place is not None else (0, 0)):
                id = self.mine.ids.get(self.theirs.of.get(int(said.ids[at]), b"\xff\xff"))
                if id is not None:
                    own.setdefault(id, float(said.log_probs[at]))
            tops.append(own)
        lse = np.stack([np.zeros(said.lse.shape[1]) if place is None else said.lse[place] for place in places])
        nothing = np.zeros((len(tops), 0))
        return replace(
            said,
            counts=np.array([len(top) for top in tops], np.int64),
            ids=np.array([id for top in tops for id in top], np.int64),
            log_probs=np.array([lp for top in tops for lp in top.values()], np.float64),
            lse=lse,
            sampled_ids=nothing.astype(np.int64),
            sampled_log_probs=nothing,
        )


def alike(mine: Sequence, theirs: Sequence, spell_mine: TokenBytes, spell_theirs: TokenBytes) -> list[int | None]:
    """For each scored token of `mine` the one of `theirs`, counted over its scored tokens, that begins and ends at the same bytes of the same answer.

    Answers are compared in their order. One whose bytes differ, the token that ends it left aside where that is spelt otherwise, has no token in common.
    """
    own, other = list(_runs(mine)), list(_runs(theirs))
    if len(own) != len(other):
        return [None] * len(mine.scored)
    found, at = list[int | None](), 0
    for one, two in zip(own, other, strict=True):
        spans, same = _spans(one, spell_mine), _spans(two, spell_theirs)
        if _spelt(one, spell_mine) == _spelt(two, spell_theirs):
            places = {span: at + index for index, span in enumerate(same)}
        elif _spelt(one[:-1], spell_mine) == _spelt(two[:-1], spell_theirs):
            places = {span: at + index for index, span in enumerate(same[:-1])}
            spans[-1] = (-1, -1)
        else:
            places = {}
        found += [places.get(span) for span in spans]
        at += len(two)
    return found


def _both(student: Chat, own: Chat, row: ChatRow) -> tuple[Sequence, Sequence] | Refused:
    try:
        return student.trained(row.messages, row.tools), own.trained(row.messages, row.tools)
    except Refused as why:
        return why


def _runs(sequence: Sequence) -> Iterator[list[int]]:
    """The ids of each run of scored tokens."""
    cuts = [0, *(np.flatnonzero(np.diff(sequence.scored) > 1) + 1).tolist(), len(sequence.scored)]
    for begin, end in pairwise(cuts):
        yield [sequence.ids[place] for place in sequence.scored[begin:end]]


def _spelt(ids: list[int], spell: TokenBytes) -> bytes:
    return b"".join(spell.of[id] for id in ids)


def _spans(ids: list[int], spell: TokenBytes) -> list[tuple[int, int]]:
    return list(pairwise([0, *spell.ends(ids)]))
