"""A teacher on this machine: it reads the rows' answers, or writes its own and is read at them."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from planish.capture.asked import How
from planish.data.capture_file import CapturedRow
from planish.data.tree import Sequence
from planish.engines import transformers
from planish.errors import InputError, PlanishError, Problem
from planish.model import bundled
from planish.model.account import account
from planish.model.chat import Chat, Refused
from planish.model.engine import Decoding
from planish.model.teacher import Wanted, read
from planish.rows import ChatRow

BYTES_PER_ENTRY = 32
"""Of a kept token in the JSON lines, with its share of the rest: estimated before the capture, measured behind it."""


def teacher(how: How, chat: Chat, relative_to: Path | None) -> LocalTeacher:
    """The model of a name or folder. Raises InputError where its tokenizer is not the student's."""
    folder = bundled.locate(how.teacher, relative_to)
    if Chat.load(folder).tokenizer_hash != chat.tokenizer_hash:
        fix = "take a teacher of the student's family, read this one where both write the same tokens (--align), or let it write the answers as text (--text)"
        raise InputError(Problem(f"teacher {how.teacher}", "has another tokenizer than the student, so its tokens are not the student's", fix))
    wanted = Wanted(how.k, how.mass, how.temperatures, how.tail_samples, vocabulary=how.vocabulary)
    return LocalTeacher(folder, chat, wanted, how)


def writer(how: How, relative_to: Path | None) -> LocalTeacher:
    """The model of a name or folder, of any tokenizer, to be asked for text alone."""
    folder = bundled.locate(how.teacher, relative_to)
    return LocalTeacher(folder, Chat.load(folder), Wanted(), how)


class LocalTeacher:
    """Prompts are rendered by `chat`: the student's, as training renders them, or its own where only its text counts."""

    batched = True

    def __init__(self, folder: Path, chat: Chat, wanted: Wanted, how: How) -> None:
        self.chat, self.wanted, self.how = chat, wanted, how
        self.identity = bundled.identity(folder)
        self.temperatures, self.k = wanted.temperatures, wanted.k
        self.engine = transformers.start(folder, precision=how.precision, exact=False)
        self.precision: str = self.engine.precision

    def budget(self, rows: Seq[ChatRow], how: How) -> str:
        """Tokens, time and bytes before anything is kept; the time from a pass over one row."""
        if not rows:
            return "  nothing is left to capture"
        lengths = [self._sequence(row) for row in rows if how.answers == "rows"]
        read_tokens = sum(len(one.ids) for one in lengths if one is not None)
        scored = sum(len(one.scored) for one in lengths if one is not None)
        if how.answers == "teacher":
            prompts = sum(len(self.chat.prompt(row.messages[:-1], row.tools)) for row in rows)
            scored = len(rows) * how.max_new_tokens
            read_tokens = prompts + scored
        seconds = read_tokens / self._rate(next((one for one in lengths if one is not None), None))
        size = scored * self.wanted.k * BYTES_PER_ENTRY
        parameters = account(self.engine.model).base
        return (
            f"  budget (estimated): {len(rows)} rows, {read_tokens:,} tokens read, at most {scored:,} captured, {2 * parameters * read_tokens / 1e12:.1f} TFLOP, "
            f"about {seconds:.0f} s, at most {size / 1e6:.1f} MB"
        )

    def captured(self, rows: Seq[ChatRow]) -> list[CapturedRow | PlanishError | Refused]:
        """Each row, or why it failed."""
        made: list[tuple[Sequence, str] | Refused] = self._written(rows) if self.how.answers == "teacher" else [self._given(row) for row in rows]
        good = [one for one in made if not isinstance(one, Refused)]
        said = iter(read(self.engine.model, [sequence for sequence, _ in good], self.wanted, self.engine.precision))
        found: list[CapturedRow | PlanishError | Refused] = []
        for row, one in zip(rows, made, strict=True):
            if isinstance(one, Refused):
                found.append(one)
                continue
            sequence, finish = one
            first = int(sequence.scored[0])
            trained = tuple(weight > 0 for weight in sequence.weights[first:])
            ended: Any = finish
            found.append(CapturedRow(row.id, sequence.ids[:first], sequence.ids[first:], trained, next(said), ended))
        return found

    def text(self, rows: Seq[ChatRow], decoding: Decoding) -> list[tuple[str, str]]:
        """One written answer each, and why it ended."""
        prompts = [self.chat.prompt(row.messages[:-1], row.tools) for row in rows]
        return [(one.text, one.finish) for one in self.engine.generate(prompts, decoding)]

    def _given(self, row: ChatRow) -> tuple[Sequence, str] | Refused:
        try:
            return self.chat.trained(row.messages, row.tools), "given"
        except Refused as why:
            return why

    def _written(self, rows: Seq[ChatRow]) -> list[tuple[Sequence, str] | Refused]:
        prompts = [self.chat.prompt(row.messages[:-1], row.tools) for row in rows]
        made: list[tuple[Sequence, str] | Refused] = []
        for prompt, said in zip(prompts, self.engine.generate(prompts, Decoding(self.how.max_new_tokens)), strict=True):
            ids = (*said.token_ids, *([self.chat.end] if said.finish == "stop" else []))
            made.append((Sequence((*prompt, *ids), (*[0.0] * len(prompt), *[1.0] * len(ids))), said.finish))
        return made

    def _sequence(self, row: ChatRow) -> Sequence | None:
        found = self._given(row)
        return None if isinstance(found, Refused) else found[0]

    def _rate(self, sequence: Sequence | None) -> float:
        """Tokens per second of one pass over a short row."""
        ids = sequence.ids[:256] if sequence is not None else tuple(self.chat.encode("How long does a pass take?" * 8))
        begun = time.perf_counter()
        read(self.engine.model, [Sequence(ids, (*[0.0] * (len(ids) - 1), 1.0))], self.wanted, self.engine.precision)
        return len(ids) / (time.perf_counter() - begun)
