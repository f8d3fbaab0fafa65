"""Extraction from text: precision, recall and F1 over the spans or fields of all rows, whole ones only; partial credit apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planish.data.answers import Leaf, as_json, leaves
from planish.errors import InputError, Problem
from planish.evidence.tally import require_references, tally
from planish.rows import Sample, canonical_json
from planish.scores import Metric, Score

PRIMARY = "f1"
MALFORMED: Leaf = ("", ("malformed", None))
"""An item of the answer that is no entity: it counts as predicted, and it is never right."""


def score(sample: Sample, answer: str | None, *, fenced: bool = True) -> Score:
    """Right, predicted and gold items of the row in `detail`; `value` is the row's own F1, 1 where there was nothing to find and nothing was said.

    The target is a JSON list of {type, text} (entities, each as often as it stands there) or a JSON object (its leaves by place; lists of scalars without
    order). The answer is read in the target's form; where it cannot be, it has found nothing. `fenced` also reads a Markdown code block. Further keys of an
    entity are not looked at. Partial credit is the word F1 of items of one type or place, paired one to one so that the sum is largest.

    Raises InputError where the target is neither form."""
    gold = Counter(_gold(sample))
    predicted, parsed = _read(answer, isinstance(as_json(sample.target), list), fenced)
    right, n, asked = (gold & predicted).total(), predicted.total(), gold.total()
    credit = partial(list(gold.elements()), list(predicted.elements()))
    detail = {
        **{"precision.part": float(right), "precision.whole": float(n), "recall.part": float(right), "recall.whole": float(asked)},
        **{"f1.part": 2.0 * right, "f1.whole": float(n + asked), "partial_f1.part": 2.0 * credit, "partial_f1.whole": float(n + asked)},
        **{"exact": float(parsed is not None and gold == predicted), "parse_rate": float(parsed is not None)},
    }
    value = 2 * right / (n + asked) if n + asked else detail["exact"]
    return Score(id=sample.id, answer=answer, parsed=parsed, target=sample.target, value=value, detail=detail)


def _gold(sample: Sample) -> list[Leaf]:
    fix = 'write [{"type": ..., "text": ...}] or {"field": value}'
    try:
        value = as_json(sample.target)
    except ValueError as broken:
        raise InputError(Problem(sample.id, f"its reference is not JSON: {broken}", fix)) from broken
    found = _items(value) if isinstance(value, list) else list(leaves(value)) if isinstance(value, dict) and value else [MALFORMED]
    if MALFORMED in found:
        raise InputError(Problem(sample.id, "its reference is neither a list of entities nor an object with fields", fix))
    return found


def _read(answer: str | None, entities: bool, fenced: bool) -> tuple[Counter[Leaf], str | None]:
    """The items of an answer, and the JSON it was read as; None where it is not JSON of the target's form."""
    try:
        value = as_json(answer, fenced=fenced)
    except ValueError:
        return Counter(), None
    if not isinstance(value, list if entities else dict):
        return Counter(), None
    found = _items(value) if isinstance(value, list) else list(leaves(value)) if value else []
    return Counter(found), canonical_json(value)


def _items(value: list[Any]) -> list[Leaf]:
    """Each entity as its type and its text; what is none as MALFORMED."""
    found = []
    for item in value:
        known = isinstance(item, dict) and isinstance(item.get("type"), str) and isinstance(item.get("text"), str)
        found.append(next(leaves(item["text"], item["type"].strip())) if known else MALFORMED)
    return found


def partial(gold: Sequence[Leaf], predicted: Sequence[Leaf]) -> float:
    """The largest sum of word F1 over pairs of a gold and a predicted item of one type or place, each item in at most one pair."""
    by_place: dict[str, tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
    for side, items in enumerate((gold, predicted)):
        for place, value in items:
            by_place[place][side].append(value)
    return sum((_best_pairs(ours, theirs) for ours, theirs in by_place.values() if ours and theirs), 0.0)


def _best_pairs(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    worth = np.array([[_likeness(one, other) for other in predicted] for one in gold])
    return float(worth[linear_sum_assignment(worth, maximize=True)].sum())


def _likeness(one: tuple[str, Any], other: tuple[str, Any]) -> float:
    """Word F1 of two texts; of anything else 1 where it is the same."""
    if one == other:
        return 1.0
    if one[0] != "text" or other[0] != "text":
        return 0.0
    ours, theirs = one[1].lower().split(), other[1].lower().split()
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`precision`, `recall`, `f1` and `partial_f1`, micro averages over the rows; `exact`, the share of rows all right; `parse_rate`.

    Precision is left out where nothing was predicted. Raises InputError without rows, on empty references, and where no row has anything to extract."""
    require_references("extraction", scores)
    if not any(found.detail["recall.whole"] for found in scores):
        raise InputError(Problem("extraction", "no row has anything to extract", "give rows with entities or fields"))
    return tally(scores, ("f1", "precision", "recall", "partial_f1", "exact", "parse_rate"), groups=groups, resamples=resamples, seed=seed)
