"""Preference pairs held against each other: the same two answers judged both ways, by one annotator or by several, and who wrote them (MISSION P1)."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from planish.data.normalise import normalised
from planish.data.task import said
from planish.evidence.agreement import cohen_kappa
from planish.rows import Message, PreferenceRow


class Judged(NamedTuple):
    """A pair by its keys: equal keys are equal texts after normalisation. `annotator` and `generator` are the row's own columns of that name, where it has them."""

    prompt: bytes
    better: bytes
    worse: bytes
    annotator: str | None
    generator: str | None


def judged(row: PreferenceRow) -> Judged:
    """What of a row is compared."""
    who = [None if row.extra.get(name) is None else str(row.extra[name]) for name in ("annotator", "generator")]
    return Judged(_key(row.prompt), _key(row.chosen), _key(row.rejected), *who)


def contradictions(pairs: Mapping[str, Judged]) -> dict[str, str]:
    """Row ids whose verdict another row turns round (A > B and B > A for one prompt), each with the first row that says otherwise."""
    first: dict[tuple[bytes, bytes, bytes], str] = {}
    for row, pair in pairs.items():
        first.setdefault((pair.prompt, pair.better, pair.worse), row)
    turned = {row: first.get((pair.prompt, pair.worse, pair.better)) for row, pair in pairs.items() if pair.better != pair.worse}
    return {row: other for row, other in turned.items() if other is not None}


def annotators(pairs: Sequence[Judged]) -> list[dict[str, Any]]:
    """For each two annotators who judged the same pairs: their agreement, chance and Cohen's kappa; who judged one pair twice is taken by the first verdict."""
    verdicts: dict[str, dict[tuple[bytes, bytes, bytes], bool]] = defaultdict(dict)
    for pair in pairs:
        if pair.annotator is not None and pair.better != pair.worse:
            low, high = sorted((pair.better, pair.worse))
            verdicts[pair.annotator].setdefault((pair.prompt, low, high), pair.better == low)
    found = []
    for one, other in combinations(sorted(verdicts), 2):
        common = sorted(verdicts[one].keys() & verdicts[other].keys())
        if common:
            agreement = cohen_kappa([verdicts[one][item] for item in common], [verdicts[other][item] for item in common])
            found.append({"annotators": [one, other], **agreement._asdict()})
    return found


def generators(pairs: Sequence[Judged]) -> dict[str, int]:
    """Pairs by the model that is logged as having written their answers."""
    return dict(Counter(pair.generator for pair in pairs if pair.generator is not None).most_common())


def _key(turns: tuple[Message, ...]) -> bytes:
    text = "\x00".join(f"{turn.role}\x01{normalised(said(turn))}" for turn in turns)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
