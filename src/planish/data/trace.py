"""What of one row is compared with other rows (MISSION D6, D9)."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from pydantic_core import from_json

from planish.data.normalise import normalised
from planish.data.shingles import hashes_of, units_of, word_units, words, words_of
from planish.data.table import ROW
from planish.data.texts import body_text, final_answer, prompt_text
from planish.rows import ChatRow, LabelRow, PromptCompletionRow, QuestionRow, Row

WORDS = 5
"""A question of fewer words is recognised only exactly, with everything around it: "summarise this" is asked of many texts."""

DIGEST = 16
"""Bytes of a prompt's digest."""


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
    prompt, answer = prompt_text(row), final_answer(row)
    match row:
        case ChatRow():
            said = "\n".join([turn.content for turn in row.messages[:-1] if turn.role == "user"])
        case PromptCompletionRow() | QuestionRow():
            said = prompt
        case _:
            return _trace(prompt, body_text(row), answer, None, not isinstance(row, LabelRow))
    return _trace(prompt, body_text(row), answer, said)


def trace_of_line(line: bytes) -> Trace:
    """The trace of a row as it is stored. Of a dialogue that calls nothing it takes the texts and makes no row: most rows are one."""
    value: dict[str, Any] = from_json(line)
    if value["shape"] != "chat" or any(turn["tool_calls"] for turn in value["messages"]) or value["messages"][-1]["role"] == "system":
        return trace(ROW.validate_json(line))
    *asked, last = value["messages"]
    prompt = "\n".join([turn["content"] for turn in asked if turn["role"] != "system"])
    said = prompt if len(asked) == 1 and asked[0]["role"] == "user" else "\n".join([turn["content"] for turn in asked if turn["role"] == "user"])
    return _trace(prompt, "\n".join([text for text in (prompt, last["content"]) if text]), last["content"], said)


def _trace(prompt: str, everything: str, answer: str, said: str | None, has_answer: bool = True) -> Trace:
    """From the texts of a row; `said` is what its user says, where an answer in it is worth a warning."""
    folded = normalised(prompt)
    found = words_of(folded)
    asked = hashes_of(found)
    if everything.isascii() and everything.startswith(prompt):  # elsewhere a normal form may reach over the line break between the two
        rest = words(everything[len(prompt) :])
        answered = hashes_of(rest)
        all_words, body = found + rest, asked + answered
    else:
        all_words = words(everything)
        answered, body = b"", hashes_of(all_words)
    whole = units_of(all_words, body)
    if not answered or len(everything) != len(prompt) + 1 + len(answer) or not everything.endswith(answer):
        answered = word_units(answer)
    tells = said is not None and _holds(asked if said == prompt else word_units(said), answered)
    sizes = (len(prompt), len(answer) if has_answer else 0)
    if len(found) < WORDS:
        return Trace(b"", b"", asked, body, whole, tells, sizes)
    digest = hashlib.sha256(folded.encode("utf-8", "surrogatepass")).digest()[:DIGEST]
    return Trace(digest, units_of(found, asked), asked, body, whole, tells, sizes)


def _holds(asked: bytes, answered: bytes) -> bool:
    """Whether what the user says holds the whole answer, of five words at least; both as units of words."""
    at = asked.find(answered) if len(answered) >= 4 * WORDS else -1
    while at > 0 and at % 4:  # between two words only
        at = asked.find(answered, at + 1)
    return at >= 0
