"""Models merged from a YAML file, ours or mergekit's: read, forecast or write, and say what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from planish.errors import InputError, Problem
from planish.model import mergekit_yaml
from planish.model.mergekit_yaml import Untranslated
from planish.model.merging import MergeSpec, read_spec
from planish.stages._merge import MergeForecast, MergeReport, forecast, merge_models

T = TypeVar("T")

__all__ = ["MergeForecast", "MergeReport", "forecast", "load", "merge_models", "sweep", "text"]


def load(path: Path) -> tuple[MergeSpec, list[Untranslated]]:
    """The merge that a file asks for: our keys, alone or under `merge`, or mergekit's. Raises InputError with every problem."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        given: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, YAMLError) as why:
        raise InputError(Problem(str(path), f"cannot be read: {why}", "give a UTF-8 YAML file")) from why
    if mergekit_yaml.is_mergekit(given):
        return mergekit_yaml.read(given, str(path))
    if isinstance(given, dict) and set(given) == {"merge"}:
        given = given["merge"]
    return read_spec(given, str(path)), []


def sweep(choices: Sequence[T], score: Callable[[T], float], *, rows: str) -> tuple[T, Mapping[int, float]]:
    """The choice (of lambda, weights, density) with the best score, the first of equals, and every score by position.

    `rows` names what `score` is measured on; Raises InputError for the gold set, which may judge the winner and never choose it (MISSION W6, R-4).
    """
    if rows == "gold":
        raise InputError(Problem("merge", "a sweep on the gold set chooses what the gold set then judges", "sweep on validation rows"))
    if not choices:
        raise InputError(Problem("merge", "there is nothing to choose from", "give values to try"))
    scores = {position: score(choice) for position, choice in enumerate(choices)}
    best = max(scores, key=lambda position: scores[position])
    return choices[best], scores


def text(done: MergeReport | MergeForecast) -> str:
    """What a person reads."""
    lines = [f"{one.check}: {one.result}" for one in done.checks]
    if isinstance(done, MergeForecast):
        lines.append(
            f"would write {done.tensors} tensors, {done.bytes:,} bytes; about {done.memory / 2**20:.0f} MiB of pieces and {done.seconds:.0f} s (estimated)"
        )
        return "\n".join(lines)
    lines += [f"not taken over: {one['key']}: {one['why']}" for one in done.untranslated]
    lines.append(f"{done.changed:.1%} of the values changed, by {done.moved:.4f} of their length")
    lines.append(f"{done.tensors} tensors, {done.bytes:,} bytes in {done.seconds:.1f} s; peak memory {done.peak / 2**20:.0f} MiB")
    return "\n".join(lines)
