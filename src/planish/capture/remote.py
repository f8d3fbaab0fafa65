"""A teacher at an address: several questions at once, each with its own retries."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from planish.capture.asked import How, isolated
from planish.capture.wire import TOP, WireTeacher
from planish.data.capture_file import CapturedRow
from planish.data.outbound import Caller, check
from planish.errors import InputError, PlanishError, Problem
from planish.model.chat import Chat, Refused
from planish.model.engine import Decoding
from planish.model.token_bytes import TokenBytes
from planish.rows import ChatRow

BYTES_PER_ENTRY = 32


def teacher(how: How, chat: Chat, relative_to: Path | None) -> RemoteTeacher:
    """The endpoint, its address checked. Raises InputError for an address that may not be called, and for what an endpoint cannot do."""
    problems = []
    if not how.model:
        problems.append(Problem("--model", "is missing: an endpoint serves models by name", "give the teacher's name there"))
    if how.answers != "teacher":
        problems.append(
            Problem("--answers rows", "the chat endpoint tells of the tokens that it writes, not of given ones", "use --answers teacher, or a local teacher")
        )
    if how.k < 1:
        problems.append(Problem("--k", f"{how.k} is below 1", f"give up to {TOP}, the most that an endpoint tells"))
    if how.max_new_tokens < 1:
        problems.append(Problem("--max-new-tokens", f"{how.max_new_tokens} is below 1", "give the most tokens that an answer may have"))
    if how.temperatures != (1.0,):
        problems.append(Problem("--temperatures", "an endpoint tells of T=1 alone: at another nothing is known of what it leaves out", "use --temperatures 1"))
    if how.tail_samples:
        problems.append(Problem("--tail-samples", "an endpoint cannot draw from what it leaves out", "leave it out, or use a local teacher"))
    if problems:
        raise InputError(*problems)
    place = check(how.teacher, allow_private=how.allow_private, where="--teacher")
    return RemoteTeacher(Caller(place, secret=os.environ.get(how.key_env, "")), how, chat)


class RemoteTeacher:
    """Asked row by row, several at once."""

    temperatures = (1.0,)
    batched = False
    precision = ""

    def __init__(self, caller: Caller, how: How, chat: Chat) -> None:
        self.how, self.k = how, min(how.k, TOP)
        self.identity = f"{urlsplit(how.teacher).hostname}/{how.model}"
        self.wire = WireTeacher(caller, str(how.model), chat, TokenBytes(chat.tokenizer), max_new_tokens=how.max_new_tokens, temperature=0.0)

    def budget(self, rows: Seq[ChatRow], how: How) -> str:
        """Calls, tokens and bytes before the first call; its time is the endpoint's own."""
        read = sum(len(self.wire.chat.prompt(row.messages[:-1], row.tools)) for row in rows)
        scored = len(rows) * how.max_new_tokens
        return (
            f"  budget (estimated): {len(rows)} calls, {how.parallel} at once, {read:,} prompt tokens by the student's count, at most {scored:,} written, "
            f"at most {scored * self.k * BYTES_PER_ENTRY / 1e6:.1f} MB; time is the endpoint's: {len(rows) / how.parallel:.0f} times one answer"
        )

    def captured(self, rows: Seq[ChatRow]) -> list[CapturedRow | PlanishError | Refused]:
        """Each row, or why it failed. Raises InputError where the endpoint gives no log-probabilities at all."""
        with ThreadPoolExecutor(self.how.parallel) as pool:
            return list(pool.map(lambda row: isolated(partial(self.wire.captured, row, self.k)), rows))

    def text(self, rows: Seq[ChatRow], decoding: Decoding) -> list[tuple[str, str]]:
        """One written answer each, and why it ended; "failed" where the call failed for good."""
        self.wire.max_new_tokens, self.wire.temperature = decoding.max_new_tokens, decoding.temperature
        with ThreadPoolExecutor(self.how.parallel) as pool:
            found = list(pool.map(lambda row: isolated(partial(self.wire.text, row, decoding.seed)), rows))
        return [one if isinstance(one, tuple) else ("", "failed") for one in found]
