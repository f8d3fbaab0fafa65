"""What of one row is compared with other rows, as texts (MISSION D6, D9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from planish.data.normalise import normalised
from planish.data.texts import body_parts, final_answer, prompt_text
from planish.rows import ChatRow, LabelRow, PromptCompletionRow, QuestionRow, Row

_JOINERS = frozenset("\u200c\u200d")


class Texts(NamedTuple):
    """What is compared of a row.

    `folded` are normalised texts: the first `asked` of them are the prompt, those from `body` on the prompt and all else. `sizes` are the characters of prompt and answer,
    of which a label is none. `said` is what its user says, None where an answer in it is not worth a warning, and `answer` the answer, the last of the texts where
    `body` is 0.
    """

    folded: Sequence[str]
    asked: int
    body: int
    sizes: tuple[int, int]
    said: str | None
    answer: str


def texts_of(row: Row) -> Texts:
    """The texts of a row."""
    prompt, answer, said = prompt_text(row), final_answer(row), None
    match row:
        case ChatRow():
            said = "\n".join([turn.content for turn in row.messages[:-1] if turn.role == "user"])
        case PromptCompletionRow() | QuestionRow():
            said = prompt
    parts = body_parts(row)
    return _texts(parts, list(map(normalised, parts)), 1, (len(prompt), 0 if isinstance(row, LabelRow) else len(answer)), said, answer)


def texts_of_turns(turns: Sequence[Mapping[str, str]], folded: Sequence[str]) -> Texts:
    """The texts of a dialogue of plain turns that ends in an answer, by their `role` and `content`, and by their normalised contents; no row is made of it."""
    if len(turns) == 2 and turns[0]["role"] == "user":
        said, answer = turns[0]["content"], turns[1]["content"]
        return _texts((said, answer), folded, 1, (len(said), len(answer)), said, answer)
    parts, kept = (
        list(each) for each in zip(*((turn["content"], text) for turn, text in zip(turns, folded, strict=True) if turn["role"] != "system"), strict=True)
    )
    said = "\n".join([turn["content"] for turn in turns[:-1] if turn["role"] == "user"])
    return _texts(parts, kept, len(parts) - 1, (len("\n".join(parts[:-1])), len(parts[-1])), said, parts[-1])


def _texts(parts: Sequence[str], folded: Sequence[str], asked: int, sizes: tuple[int, int], said: str | None, answer: str) -> Texts:
    """From texts that stand one below another. What is normal of each by itself is normal of them together, but where a joiner stands beside the line break."""
    if any([not part.isascii() and not _JOINERS.isdisjoint(part[:1] + part[-1:]) for part in parts]):
        prompt = "\n".join(parts[:asked])
        together = (normalised(prompt), normalised("\n".join([part for part in (prompt, *parts[asked:]) if part])))
        return Texts(together, 1, 1, sizes, said, answer)
    return Texts(folded, asked, 0, sizes, said, answer)
