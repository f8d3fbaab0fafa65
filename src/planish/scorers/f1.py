"""Token F1 after SQuAD's normalisation: how much of an accepted answer the answer shares, word by word, the best accepted answer counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from planish.data.answers import accepted, plain, require_plain
from planish.evidence.tally import require_references, tally
from planish.rows import Sample
from planish.scores import Metric, Score

PRIMARY = "f1"


def score(sample: Sample, answer: str | None) -> Score:
    """2 shared / (answered + asked) over normalised words, the maximum over the accepted answers. No answer is 0.

    References that normalise to nothing are passed over, as by SQuAD's script; `metrics` refuses a row that has no other."""
    given = answer.strip() if answer is not None else ""
    words = plain(given).split()
    known = [plain(text).split() for text in accepted(sample.target)]
    best = max((overlap(words, asked) for asked in known if asked), default=0.0)
    return Score(id=sample.id, answer=answer, parsed=given or None, target=sample.target, value=best, detail={"f1": best, "parse_rate": float(given != "")})


def overlap(answered: Sequence[str], asked: Sequence[str]) -> float:
    """F1 of two bags of words."""
    shared = (Counter(answered) & Counter(asked)).total()
    return 2 * shared / (len(answered) + len(asked)) if shared else 0.0


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`f1`, the mean over rows, and `parse_rate`, the share of rows with an answer. Raises InputError without rows and naming every row whose references are empty."""
    require_references("f1", scores)
    require_plain(scores)
    return tally(scores, ("f1", "parse_rate"), groups=groups, resamples=resamples, seed=seed)
