"""Rows that are longer than a model may read: refused, shortened where nothing is learnt, or divided; an answer is never cut (MISSION K5)."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from itertools import pairwise
from typing import Literal

from planish.model.chat import Chat
from planish.model.mask import Dialogue, Masked, Turns
from planish.model.template import Refused
from planish.rows import Message, RejectCode

Policy = Literal["refuse", "drop", "cut_prompt_left", "split"]
STEP = 64
"""Lengths are proposed in steps of this many tokens: kernels like them."""


def suggested(lengths: Seq[int], share: float = 0.99) -> int:
    """The length that leaves `share` of the rows whole, rounded up to a multiple of 64."""
    ordered = sorted(lengths)
    return STEP * math.ceil(ordered[math.ceil(share * len(ordered)) - 1] / STEP)


def histogram(lengths: Seq[int]) -> dict[int, int]:
    """Rows per length, by the multiple of 64 that they fit into."""
    counts: dict[int, int] = {}
    for length in lengths:
        upper = STEP * math.ceil(length / STEP)
        counts[upper] = counts.get(upper, 0) + 1
    return dict(sorted(counts.items()))


def fit(chat: Chat, dialogue: Dialogue, masked: Masked, max_length: int, policy: Policy = "refuse", turns: Turns = "all") -> list[Masked]:
    """What is trained of a row at `max_length` tokens: the row itself where it fits.

    `refuse` and `drop` set a longer row aside (the first stops a run, see preflight). `cut_prompt_left` leaves out the oldest exchanges that are not trained, then the
    beginning of the first question; system turns, answers and everything between them stay. `split` divides a dialogue before a question, each part with the system
    turns, so that every answer is trained once; with `last`, the part that ends in the last answer is all there is.
    Raises Refused: too_long where not even the prompt before the first answer fits, or where the policy finds no way; answer_truncated else.
    """
    if len(masked.ids) <= max_length:
        return [masked]
    if policy == "split":
        return _split(chat, dialogue, max_length, turns)
    if policy == "cut_prompt_left":
        return [_cut(chat, dialogue, masked, max_length, turns)]
    need = f"{len(masked.ids)} tokens, max_length is {max_length}"
    if masked.spans[0].start >= max_length:
        raise Refused(RejectCode.TOO_LONG, f"{need}: the prompt alone fills it, and no token of an answer is left")
    raise Refused(RejectCode.ANSWER_TRUNCATED, f"{need}: {len(masked.ids) - max_length} tokens of its answers would be cut")


def _cut(chat: Chat, dialogue: Dialogue, masked: Masked, max_length: int, turns: Turns) -> Masked:
    system, exchanges = _exchanges(dialogue.messages)
    first = masked.spans[0].turn
    at = len(system)
    while len(exchanges) > 1 and at + len(exchanges[0]) <= first and len(masked.ids) > max_length:
        at += len(exchanges.pop(0))
        masked = _masked(chat, dialogue._replace(messages=_joined(system, exchanges)), turns)
    question = exchanges[0][0]
    while (excess := len(masked.ids) - max_length) > 0:
        words = chat.encode(question.content)
        if question.role != "user" or excess >= len(words):
            why = f"{len(masked.ids)} tokens, max_length is {max_length}: the system turns and the answers alone are longer"
            raise Refused(RejectCode.TOO_LONG, why)
        text = question.content[_begin(chat, question.content, excess) :]
        if len(text) == len(question.content):  # one token of several characters in a row that stays: leave out a character
            text = text[1:]
        question = question.model_copy(update={"content": text})
        exchanges[0] = (question, *exchanges[0][1:])
        masked = _masked(chat, dialogue._replace(messages=_joined(system, exchanges)), turns)
    return masked


def _begin(chat: Chat, text: str, tokens: int) -> int:
    """The character at which the text begins when its first `tokens` tokens are left out."""
    offsets = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return int(offsets[tokens][0])


def _split(chat: Chat, dialogue: Dialogue, max_length: int, turns: Turns) -> list[Masked]:
    system, exchanges = _exchanges(dialogue.messages)
    if turns == "last":
        for start in range(1, len(exchanges)):
            masked = _masked(chat, dialogue._replace(messages=_joined(system, exchanges[start:])), turns)
            if len(masked.ids) <= max_length:
                return [masked]
        raise Refused(RejectCode.TOO_LONG, f"the last exchange alone is longer than max_length {max_length}")
    parts: list[Masked] = []
    start = 0
    while start < len(exchanges):
        fits: Masked | None = None
        stop = start
        for end in range(start + 1, len(exchanges) + 1):
            found = chat.masks([dialogue._replace(messages=_joined(system, exchanges[start:end]))], turns)[0]
            if isinstance(found, Refused):
                if found.code != RejectCode.NO_SCORED_TOKENS:
                    raise found
                stop = end
                continue
            if len(found.ids) > max_length:
                break
            fits, stop = found, end
        if stop == start:
            raise Refused(RejectCode.TOO_LONG, f"exchange {start + 1} alone is longer than max_length {max_length}")
        parts += [fits] if fits else []
        start = stop
    return parts


def _masked(chat: Chat, dialogue: Dialogue, turns: Turns) -> Masked:
    found = chat.masks([dialogue], turns)[0]
    if isinstance(found, Refused):
        raise found
    return found


def _exchanges(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """The leading system turns, and the rest cut before every question."""
    begin = next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))
    cuts = [place for place in range(begin + 1, len(messages)) if messages[place].role == "user"]
    edges = [begin, *cuts, len(messages)]
    return messages[:begin], [messages[one:other] for one, other in pairwise(edges)]


def _joined(system: tuple[Message, ...], exchanges: Seq[tuple[Message, ...]]) -> tuple[Message, ...]:
    return (*system, *(message for exchange in exchanges for message in exchange))
