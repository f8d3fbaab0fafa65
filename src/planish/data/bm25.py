"""Which texts share rare words with a query: BM25 over any texts, by bm25s (MISSION B3).

score = sum over the query's words of idf x tf / (tf + k1 (1 - b + b length / mean length)), idf = ln(1 + (N - n + .5) / (n + .5)): Lucene's form, which is never
negative. Source: Robertson and Zaragoza 2009; the variants are told apart in Kamphuis et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.data.passages import UNIT
from planish.data.shingles import words
from planish.errors import InputError, Problem
from planish.lazy import require

K1, B = 1.2, 0.75


def terms(text: str) -> list[str]:
    """The words of a text as they are compared: without case, punctuation and compatibility forms."""
    return [unit for word in words(text) for unit in UNIT.findall(word.decode("utf-8", "surrogatepass"))]


class Index:
    """Texts to be found again, in order."""

    def __init__(self, texts: Sequence[str], *, k1: float = K1, b: float = B) -> None:
        """Raises InputError where no text holds a word, and for parameters out of range."""
        BM25 = require("bm25s", extra="retrieval").BM25  # a third of a second: loaded when something is searched

        found = [terms(text) for text in texts]
        problems = []
        if not any(found):
            problems.append(Problem("documents", "there is nothing to search: no document holds a word", "give documents with text"))
        if k1 < 0 or not 0 <= b <= 1:
            problems.append(Problem("k1, b", f"{k1:g} and {b:g} are out of range", "k1 >= 0 and 0 <= b <= 1; 1.2 and 0.75 by default"))
        if problems:
            raise InputError(*problems)
        self.size = len(texts)
        self._index: Any = BM25(k1=k1, b=b, method="lucene", dtype="float64")
        self._index.index(found, create_empty_token=False, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float64]:
        """The score of every text, (N,); a word that the query repeats counts as often."""
        asked = terms(query)
        return np.asarray(self._index.get_scores(asked), dtype=np.float64) if asked else np.zeros(self.size)

    def best(self, query: str, k: int) -> list[int]:
        """Places of the `k` best texts, best first, the earlier of equals first; fewer where fewer share a word with the query."""
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:k]
        return [int(place) for place in order if scores[place] > 0]
