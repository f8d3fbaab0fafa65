"""Citations: precision and recall of the passages an answer cites, and whether what it quotes stands there word for word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from planish.data.answers import accepted, plain
from planish.data.citations import cited, passages, quotes, verbatim
from planish.errors import InputError, Problem
from planish.evidence.tally import require_references, tally
from planish.rows import Sample, canonical_json
from planish.scores import Metric, Score

PRIMARY = "f1"


def score(sample: Sample, answer: str | None, *, relevant: Literal["cited", "contains"] = "cited") -> Score:
    """Cited, relevant and right passages of the row in `detail`; `value` is the row's own F1.

    The passages stand in the prompt as [1], [2], ... Relevant are those that the target cites or quotes, or with `relevant: contains` those that hold an
    accepted answer in SQuAD's plain form. An answer cites by [number], and by quoting a passage; a number that is no passage is a wrong citation.

    Raises InputError where the prompt has no passages, or none of them is relevant by that rule."""
    known = passages(message.content for message in sample.messages)
    if not known:
        raise InputError(Problem(sample.id, "its prompt holds no numbered passage", "write the documents as [1] ..., [2] ..., each at the head of a line"))
    if relevant == "cited":
        right = _sources(sample.target, known) & known.keys()
    else:
        wanted = [text for text in map(plain, accepted(sample.target)) if text]
        right = {number for number, text in known.items() if any(f" {one} " in f" {plain(text)} " for one in wanted)}
    if not right:
        why = "its reference cites no passage of its prompt" if relevant == "cited" else "no passage of its prompt holds its reference"
        raise InputError(Problem(sample.id, why, "cite in the reference as [1], or take the row out"))
    given = (answer or "").strip()
    said, quoted = _sources(given, known), quotes(given)
    found = len(said & right)
    true = sum(any(verbatim(quote, text) for text in known.values()) for quote in quoted)
    detail = {
        **{"precision.part": float(found), "precision.whole": float(len(said)), "recall.part": float(found), "recall.whole": float(len(right))},
        **{"f1.part": 2.0 * found, "f1.whole": float(len(said) + len(right)), "quotes_verbatim.part": float(true), "quotes_verbatim.whole": float(len(quoted))},
        "parse_rate": float(bool(said)),
    }
    parsed = canonical_json(sorted(said)) if said else None
    return Score(id=sample.id, answer=answer, parsed=parsed, target=sample.target, value=2 * found / (len(said) + len(right)), detail=detail)


def _sources(text: str, known: Mapping[int, str]) -> set[int]:
    """The passages that a text cites by number or quotes."""
    quoted = quotes(text)
    return cited(text) | {number for number, passage in known.items() if any(verbatim(quote, passage) for quote in quoted)}


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`precision`, `recall`, `f1` of cited passages and `quotes_verbatim`, micro averages over the rows; `parse_rate`, the share of answers that cite.

    Precision is left out where nothing was cited, `quotes_verbatim` where nothing was quoted. Raises InputError without rows and on empty references."""
    require_references("citation", scores)
    return tally(scores, ("f1", "precision", "recall", "quotes_verbatim", "parse_rate"), groups=groups, resamples=resamples, seed=seed)
