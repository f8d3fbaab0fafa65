"""ROUGE-1, ROUGE-2 and ROUGE-L: shared words, word pairs and the longest common subsequence with the reference, as F1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from planish.data.answers import accepted
from planish.errors import InputError, Problem
from planish.evidence.tally import require_references, tally
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "rougeL"
NAMES = ("rouge1", "rouge2", "rougeL")
_OTHER = re.compile(r"[^a-z0-9]+")


def score(sample: Sample, answer: str | None) -> Score:
    """rouge1, rouge2 and rougeL in `detail`, each the best over the accepted references; `value` is rougeL. No answer is 0.

    Words are runs of a-z and 0-9 after lower case, without stemming: the defaults of the package rouge-score. Source: Lin 2004."""
    given = answer.strip() if answer is not None else ""
    words = tokens(given)
    found = [_three(tokens(reference), words) for reference in accepted(sample.target)]
    best = {name: max(each[place] for each in found) for place, name in enumerate(NAMES)}
    detail = {**best, "parse_rate": float(given != "")}
    return Score(id=sample.id, answer=answer, parsed=given or None, target=sample.target, value=best[PRIMARY], detail=detail)


def tokens(text: str) -> list[str]:
    """The words of a text. Letters outside a-z are not seen."""
    return _OTHER.sub(" ", text.lower()).split()


def _three(asked: list[str], answered: list[str]) -> tuple[float, float, float]:
    pairs = (list(pairwise(asked)), list(pairwise(answered)))
    shared = (Counter(asked) & Counter(answered)).total(), (Counter(pairs[0]) & Counter(pairs[1])).total(), longest_common(asked, answered)
    sizes = (len(asked) + len(answered), len(pairs[0]) + len(pairs[1]), len(asked) + len(answered))
    one, two, long = (2 * part / whole if whole else 0.0 for part, whole in zip(shared, sizes, strict=True))
    return one, two, long


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, in bit-parallel form: one machine-long addition per word of `b`.

    Source: Hyyro 2004, "Bit-parallel LCS-length computation revisited"."""
    places: dict[str, int] = {}
    for position, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << position
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & everything
    return len(a) - row.bit_count()


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`rouge1`, `rouge2`, `rougeL`, means over rows, and `parse_rate`, the share of rows with an answer.

    Raises InputError without rows, and naming every row whose references are empty or have no word that ROUGE sees."""
    require_references("rouge", scores)
    unseen = [found.id for found in scores if not all(map(tokens, accepted(found.target)))]
    if unseen:
        why = "its reference has no word of a-z or 0-9, and ROUGE sees no others"
        raise InputError(*(Problem(row, why, "score texts in other scripts with chrf") for row in unseen))
    return tally(scores, (*NAMES, "parse_rate"), groups=groups, resamples=resamples, seed=seed)
