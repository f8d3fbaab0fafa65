"""The rows of the decision guide, as they stand in guide.json beside this file: when each holds, and what it recommends (MISSION G1).

A condition is a value, a list of values any of which will do, null for "not known", or a mapping with `min` (at least) or `below`. What is not known meets no condition
but null, so that nothing is recommended on a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from planish.rows import Noun

Gap = Literal["knowledge", "behaviour", "steering", "preference", "reasoning", "tools"]
Constraint = Literal["size", "device", "cost", "breadth", "reliability"]
# fmt: off
Phase = Literal["fix_data", "prompt", "few_shot", "rag", "classifier", "constrain", "cpt", "sft", "distil", "preference", "rl", "merge", "prune", "quantise", "serve"]
# fmt: on
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In which order techniques are composed: facts before behaviour, behaviour before preference, weights settled before they are merged, cut and rounded."""
Condition = Mapping[str, Any]


class Rule(Noun):
    """One row of the guide. `rank` orders recommendations, the lowest first; `trains` is withheld while there are too few good rows; `objective` is what it trains on.
    `shelf` is the technique, as shelf/name, without which its recipe cannot run; where it is not installed the recommendation says so."""

    technique: str
    entries: tuple[str, ...]
    phase: Phase
    rank: int
    when: dict[str, Any]
    why: str
    needs: str
    not_if: str
    recipe: dict[str, Any]
    command: str = "planish run"
    trains: bool = False
    objective: str | None = None
    shelf: str | None = None


class Contradiction(Noun):
    """Answers that cannot all be true: `drop` is the one to take back."""

    when: dict[str, Any]
    drop: str
    why: str


class Rung(Noun):
    """One step of the ladder. `recipe` is what the step adds to a recipe; `undo` is what taking it back costs, `effort` the same from 0 (delete a line) to 5."""

    technique: str
    kind: Literal["baseline", "train"]
    entries: tuple[str, ...]
    when: dict[str, Any] = {}
    recipe: dict[str, Any]
    why: str
    undo: str
    effort: int


class Guide(Noun):
    """Every row, in the order of the file; `rungs` stand in order of cost."""

    rules: tuple[Rule, ...]
    contradictions: tuple[Contradiction, ...]
    rungs: tuple[Rung, ...]


@cache
def guide() -> Guide:
    """The rows as they are shipped."""
    path = Path(__file__).with_name("guide.json")
    return TypeAdapter(Guide).validate_python(json.loads(path.read_text(encoding="utf-8")))


def holds(condition: Condition, known: Mapping[str, Any]) -> bool:
    """Whether every part of the condition is met by what is known. Raises KeyError for a name that nothing is known under, so that a misspelt row fails loudly."""
    return all(_met(wanted, known[name]) for name, wanted in condition.items())


def _met(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, dict):
        return value is not None and value >= wanted.get("min", value) and ("below" not in wanted or value < wanted["below"])
    choices: Sequence[Any] = wanted if isinstance(wanted, list) else [wanted]
    if isinstance(value, tuple):  # several answers at once
        return bool(set(value) & set(choices))
    return any(type(choice) is type(value) and choice == value for choice in choices)
