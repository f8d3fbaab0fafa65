"""Numbered passages of a prompt, and what an answer cites of them: by [number], and by quoting."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest

_PASSAGE = re.compile(r"^[ \t]*\[(\d{1,4})\][ \t:]*", re.MULTILINE)
_CITED = re.compile(r"\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]")
_QUOTED = re.compile(r"##begin_quote##(.*?)##end_quote##|“([^”]*)”|\"([^\"]*)\"|«([^»]*)»", re.DOTALL)
SHORTEST_QUOTE = 3
"""Words from which text in quotation marks counts as a quotation; fewer are a title or a word spoken of."""


def passages(prompts: Iterable[str]) -> dict[int, str]:
    """The passages that stand in the prompts, each opened by its [number] at the head of a line and going on to the next; the last ends at a blank line."""
    found: dict[int, str] = {}
    for prompt in prompts:
        marks = list(_PASSAGE.finditer(prompt))
        for mark, after in zip_longest(marks, marks[1:]):
            text = prompt[mark.end() : after.start()] if after else prompt[mark.end() :].partition("\n\n")[0]
            found.setdefault(int(mark.group(1)), text.strip())
    return found


def cited(answer: str) -> set[int]:
    """The numbers cited as [1] or [1, 3], quotations aside."""
    return {int(number) for group in _CITED.findall(_QUOTED.sub(" ", answer)) for number in re.split(r"\s*[,;]\s*", group)}


def quotes(answer: str) -> list[str]:
    """The quotations of at least SHORTEST_QUOTE words: between quotation marks, or RAFT's ##begin_quote## and ##end_quote##."""
    found = map("".join, _QUOTED.findall(answer))  # one of the groups matched
    return [quote for quote in found if len(quote.split()) >= SHORTEST_QUOTE]


def verbatim(quote: str, text: str) -> bool:
    """Whether the quotation stands in the text word for word; only the kind of white space may differ."""
    return " ".join(quote.split()) in " ".join(text.split())
