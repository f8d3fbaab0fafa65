"""The ids of words met so far, each word known by a number: a text is then a list of numbers, and the ids of many texts are taken at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from planish.data.ragged import Ragged
from planish.model.token_ids import KNOWN_WORDS, TokenIds


class WordIds:
    """Words of one tokenizer's texts: `begins` are what a part begins with, `behind` what follows a blank, as in TokenIds, and `fixed` ids that always stand together."""

    def __init__(self, tokens: TokenIds) -> None:
        self._tokens = tokens
        self._clear()

    def make_room(self) -> None:
        """Forget all words where they have become too many."""
        if len(self._starts) > 2 * KNOWN_WORDS:
            self._clear()

    def number(self, ids: Seq[int]) -> int:
        """The number of a new word of these ids."""
        self._values.extend(ids)
        self._starts.append(len(self._values))
        return len(self._starts) - 2

    def head(self, word: int, size: int) -> tuple[int, ...]:
        """The first ids of a word."""
        return tuple(self._values[self._starts[word] : self._starts[word + 1]][:size])

    def ids(self, words: array[int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of some words one after another (_T,), and where those of each begin, and of the last end (_N + 1,)."""
        known = Ragged(np.array(self._values, np.uint32), np.array(self._starts, np.int64))
        taken = known.only(np.array(words, np.int64))
        return taken.values.astype(np.int32), taken.starts

    def _clear(self) -> None:
        self._values, self._starts = array("I"), array("q", [0])
        self.begins, self.behind = _Numbers(self, self._tokens.begin), _Numbers(self, self._behind)
        self.fixed = _Fixed(self)

    def _behind(self, word: str) -> list[int]:
        if not (word[:1].isascii() and word[:1].isalpha()):
            raise Uncut
        return self._tokens.behind(word)


class Uncut(Exception):
    """What stands behind a blank is no word, so that no token need end before the blank."""


class _Numbers(dict[str, int]):
    """Numbers of words, each given when it is first asked for."""

    def __init__(self, words: WordIds, ids: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._known, self._ids = words, ids

    def __missing__(self, word: str) -> int:
        found = self[word] = self._known.number(self._ids(word))
        return found


class _Fixed(dict[tuple[int, ...], int]):
    """Numbers of ids that always stand together."""

    def __init__(self, words: WordIds) -> None:
        super().__init__()
        self._known = words

    def __missing__(self, ids: tuple[int, ...]) -> int:
        found = self[ids] = self._known.number(ids)
        return found
