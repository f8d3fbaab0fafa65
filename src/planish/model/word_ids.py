"""The ids of words met so far, each word known by a number: a text is then a list of numbers, and the ids of many texts are taken at once."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq
from string import punctuation

import numpy as np
from numpy.typing import NDArray

from planish.data.ragged import Ragged
from planish.model.token_ids import KNOWN_WORDS, TokenIds

PART = "\0"
"""Begins the first word of a part, and no other word."""

_UNCUT = 0
"""The number of what stands behind a blank and is no word, so that no token need end before the blank."""


def part(text: str) -> str:
    """A text, written as a part."""
    return PART + text


def fixed(ids: Seq[int]) -> str:
    """Ids that always stand together, written as a part of one word."""
    return PART + PART + ",".join(map(str, ids))


class WordIds:
    """Words of one tokenizer's texts, cut at blanks: what a part begins with, or what follows a blank, as in TokenIds."""

    def __init__(self, tokens: TokenIds) -> None:
        self._tokens = tokens
        self._clear()

    def make_room(self) -> None:
        """Forget all words where they have become too many."""
        if len(self._numbers) > 2 * KNOWN_WORDS:
            self._clear()

    def numbers(self, parts: Seq[str]) -> NDArray[np.uint32]:
        """The numbers of the words of some parts, (_W,)."""
        words = " ".join(parts).split(" ") if parts else []
        found = self._of(words)
        if not found.all():  # join what is no word to the word before it
            cut = list[str]()
            for word, number in zip(words, found.tolist(), strict=True):
                if number == _UNCUT:
                    cut[-1] += f" {word}"
                else:
                    cut.append(word)
            found = self._of(cut)
        return found

    def parts(self, words: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Where each part begins among some words, and the last ends, (_P + 1,)."""
        return np.append(np.flatnonzero(np.frombuffer(self._first, np.uint8)[words]), len(words))

    def begins_with(self, words: NDArray[np.uint32], heads: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Whether the ids of each word begin with those of its head, (_W,)."""
        known = self._known()
        sizes = known.sizes[heads]
        fits = known.sizes[words] >= sizes
        for place in range(int(sizes.max(initial=0))):
            here = np.flatnonzero(fits & (place < sizes))
            fits[here] = known.values[known.starts[words[here]] + place] == known.values[known.starts[heads[here]] + place]
        return fits

    def ids(self, words: NDArray[np.uint32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of some words one after another (_T,), and where those of each begin, and of the last end (_W + 1,)."""
        taken = self._known().only(words.astype(np.int64))
        return taken.values.view(np.int32), taken.starts

    def _of(self, words: list[str]) -> NDArray[np.uint32]:
        return np.frombuffer(array("I", map(self._numbers.__getitem__, words)), np.uint32)

    def _known(self) -> Ragged:
        return Ragged(np.frombuffer(self._values, np.uint32), np.frombuffer(self._starts, np.int64))

    def _clear(self) -> None:
        self._values, self._starts = array("I"), array("q", [0, 0])
        self._first = array("B", [0])  # of each number, whether it begins a part
        self._numbers = _Numbers(self)

    def learn(self, word: str) -> int:
        """The number of a word that is new."""
        if word[0:1] == PART:
            ids = [int(id) for id in word[2:].split(",") if id] if word[1:2] == PART else self._tokens.begin(word[1:])
        elif word[:1].isascii() and word[:1].isalpha():
            ids = self._behind(word)
        else:
            return _UNCUT
        self._values.extend(ids)
        self._starts.append(len(self._values))
        self._first.append(word[0] == PART)
        return len(self._first) - 1

    def _behind(self, word: str) -> list[int]:
        """Of letters with a mark behind them, as words end a sentence, the letters are mostly known; TokenIds cuts between the two."""
        letters, mark = word[:-1], word[-1]
        if mark in punctuation and letters.isascii() and letters.isalpha() and letters in self._numbers:
            return [*self._ids(letters), *self._ids(part(mark))]
        return self._tokens.behind(word)

    def _ids(self, word: str) -> array[int]:
        number = self._numbers[word]
        return self._values[self._starts[number] : self._starts[number + 1]]


class _Numbers(dict[str, int]):
    """Numbers of words, each given when it is first asked for."""

    def __init__(self, words: WordIds) -> None:
        super().__init__()
        self._words = words

    def __missing__(self, word: str) -> int:
        found = self[word] = self._words.learn(word)
        return found
