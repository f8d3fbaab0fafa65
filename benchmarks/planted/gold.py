"""Planted defects of a sealed gold set: edited, too small, or met again in training data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import REFUSED, Ask, Case, Expected, dialogue, jsonl, planted

from planish.data import gold_lock
from planish.rows import GoldSet, Message, Sample, canonical_json, content_hash

_PAIRS = sound_rows.pairs()
_LONG = (
    "The ferry that crosses the bay every forty minutes was cancelled because of ice, and the last bus to the airport leaves from the other shore; "
    "which way around the bay is shortest for somebody with a heavy suitcase?"
)


def _sealed(questions: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The body of a gold file over these questions, with its seal."""
    samples = tuple(
        Sample(id=f"g{number:02d}", messages=(Message(role="user", content=asked),), target=answer) for number, (asked, answer) in enumerate(questions)
    )
    body = GoldSet.seal(samples).model_dump(mode="json")
    return body | {"seal": content_hash(body)}


def _file(name: str, what: str, body: dict[str, Any], why: str) -> Case:
    return Case(f"gold/{name}", "gold files", what, "gold.json", (canonical_json(body) + "\n").encode(), (Expected(REFUSED, (), why),))


def _edited(index: int, **change: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(canonical_json(_sealed(_PAIRS)))
    body["samples"][index].update(change)
    return body


def _resealed() -> dict[str, Any]:
    """Somebody changed an answer and mended the hash of the samples, not the seal over the file."""
    body = _edited(3, target="Soot.")
    body["sha256"] = content_hash(body["samples"])
    return body


def _shortened() -> dict[str, Any]:
    body = _sealed(_PAIRS)
    return body | {"samples": body["samples"][:-1]}


_GOLD_ROWS = [
    *sound_rows.chat()[20:],
    *(dialogue(f"What is {n} squared?", f"{n} times {n} makes {n * n}.") for n in range(31, 50)),
    dialogue(_LONG, "The northern one."),
]
_ROWS = sound_rows.chat(20)


def _met(name: str, what: str, at: dict[int, Any]) -> Case:
    """Training rows, some of which ask what a gold row asks."""
    expected = (Expected("gold_overlap", tuple(sorted(at))),)
    return Case(f"gold/{name}", "gold", what, "rows.jsonl", jsonl(planted(_ROWS, at)), expected, Ask(gold=jsonl(_GOLD_ROWS)))


def _locked() -> Case:
    """A gold file of one's own whose last answer was edited after it was locked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gold.jsonl"
        path.write_bytes(jsonl(_GOLD_ROWS))
        gold_lock.lock(path, "first version")
        held = gold_lock.lock_path(path).read_bytes()
    edited = jsonl([*_GOLD_ROWS[:-1], dialogue(_LONG, "The southern one.")])
    return Case("gold/locked", "gold files", "a locked gold file was edited", "gold.jsonl", edited, (Expected(REFUSED, (), "edited"),), Ask(lock=held))


CASES = [
    _locked(),
    _file("edited", "a gold answer was edited after the set was sealed", _edited(3, target="Soot."), "edited"),
    _file("resealed", "a gold answer was edited, and the hash of the rows with it", _resealed(), "edited"),
    _file("removed", "a gold row was removed after the set was sealed", _shortened(), "edited"),
    _file("few", "a gold set of 29 rows", _sealed(_PAIRS[:29]), "29"),
    _met("met_again", "two gold questions turn up in new training data", {4: sound_rows.chat()[22], 17: dialogue("what  is 34 SQUARED?", "About a thousand.")}),
    _met("met_again_near", "a gold question turns up with a word changed", {12: dialogue(_LONG.replace("forty", "fifty"), "Take the southern road.")}),
]
