"""Questions that differ in their numbers alone: whether these are what is asked (MISSION D6, D9).

A summand is what is asked, an order number is not. The answers tell: where the rows of one wording are answered differently, the numbers decide. Word n-grams
cannot, because they leave out signs, and a digit more or less changes few of them: by these, 12 + 7 and 12 - 7 are one question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.normalise import normalised
from planish.data.table import Table
from planish.data.texts import body_text, final_answer, prompt_text
from planish.rows import Row

_SIGN = r"[-+*/^%=<>()\[\]|&!×÷·−–⁄√\s]"
_FORMULA = re.compile(rf"(?<!{_SIGN}){_SIGN}*\d(?:(?<=\d)\.(?=\d)|\d|{_SIGN})*")  # begins where signs begin, so that a long rule of dashes is read once
_APART = re.compile(r"(?<=\d)\s+(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SYMBOL = re.compile("[¬×÷±\u2190-\u22ff\u2a00-\u2aff]")
"""Arrows and the signs of mathematics and logic."""

_ONE_ANSWER = 0.9
"""Where this share of a wording's rows has one answer, the numbers in it change nothing; the rest are slips."""

_TOLD_BY = 10_000
"""Rows, spread over all of them, that tell which wordings have one answer; besides them the rows of the pairs do."""


class Numbers(NamedTuple):
    """`asked`: the numbers of a prompt in order, each with the signs that tie it to the next, then its symbols; `wording`: the prompt with these masked; `answer`: the
    answer with those numbers masked that it merely repeats."""

    asked: tuple[str, ...]
    wording: str
    answer: str


def numbers(row: Row) -> Numbers:
    """The numbers of a row."""
    prompt, answer = _folded(prompt_text(row)), _folded(final_answer(row))
    repeated = set(_NUMBER.findall(prompt))
    return Numbers(
        _formulas(prompt_text(row)),
        _SYMBOL.sub("#", _FORMULA.sub("#", prompt)),
        _NUMBER.sub(lambda number: "#" if number[0] in repeated else number[0], answer),
    )


def _folded(text: str) -> str:
    return _THOUSANDS.sub("", normalised(text))


def _formulas(text: str) -> tuple[str, ...]:
    """The numbers of a text; none reaches over the end of a line."""
    parts = [part for line in text.splitlines() for run in _FORMULA.findall(_folded(line)) for part in _APART.split(run)]
    symbols = "".join(_SYMBOL.findall(text))
    return (*("".join(part.split()).lstrip("=)!").rstrip("=!-(") for part in parts), *([symbols] if symbols else []))


class Numbered:
    """The rows of several tables, one table after another, whose numbers are looked at when they come up in a pair."""

    def __init__(self, *tables: Table) -> None:
        self._tables = tables
        self._starts = np.array(list(accumulate(map(len, tables), initial=0)))
        self._ids: dict[Hashable, int] = {}
        self._of = np.full((3, int(self._starts[-1])), -1, np.int64)  # one number for each different `asked`, `wording` and `answer`
        self._asked: dict[int, tuple[str, ...]] = {}
        self._answers: dict[int, Counter[int]] = defaultdict(Counter)

    def same(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the rows of each pair, alike by their words, ask the same by their numbers too, (_P,): these are equal, or decide nothing."""
        asked, wording, answer = self._of
        seen = np.zeros(len(asked), bool)
        seen[left] = seen[right] = True
        self._learn(np.flatnonzero(seen))
        same = np.asarray(asked[left] == asked[right])
        unsure = np.flatnonzero(~same & (answer[left] == answer[right]))
        if len(unsure):
            self._learn(np.unique(np.linspace(0, len(asked) - 1, num=min(len(asked), _TOLD_BY), dtype=np.int64)))
            decides = np.zeros(len(self._ids), bool)
            decides[[each for each, counts in self._answers.items() if max(counts.values()) < _ONE_ANSWER * counts.total()]] = True
            same[unsure] = ~decides[wording[left[unsure]]] & ~decides[wording[right[unsure]]]
        return same

    def held(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """As `same`, of pairs whose right row holds the words of what the left one asks within a longer text, (_P,): it may hold other numbers besides."""
        found = self.same(left, right)
        for pair in np.flatnonzero(~found).tolist():
            asked = self._asked[int(self._of[0, left[pair]])]
            there = _formulas(body_text(self._row(int(right[pair]))))
            found[pair] = any(there[at : at + len(asked)] == asked for at in range(len(there) - len(asked) + 1))
        return found

    def _learn(self, rows: NDArray[np.int64]) -> None:
        """Look at the numbers of some rows, each row once."""
        for index in rows[self._of[0, rows] < 0].tolist():
            found = numbers(self._row(index))
            for field, value in enumerate(found):
                self._of[field, index] = self._ids.setdefault((field, value), len(self._ids))
            self._asked[int(self._of[0, index])] = found.asked
            self._answers[int(self._of[1, index])][int(self._of[2, index])] += 1

    def _row(self, index: int) -> Row:
        table = int(np.searchsorted(self._starts, index, "right")) - 1
        return self._tables[table][index - int(self._starts[table])]
