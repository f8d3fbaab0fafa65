"""Models merged from a YAML file, ours or mergekit's: read, forecast or write, and say what was done. Scoring is `planish.merge_tasks`, which brings all that asks models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from planish.errors import InputError, Problem, did_you_mean
from planish.model import mergekit_yaml
from planish.model.mergekit_yaml import Untranslated
from planish.model.merging import MergeSpec, read_spec
from planish.stages._merge import forecast, merge_models
from planish.stages._merge_report import MergeForecast, MergeReport

T = TypeVar("T")

__all__ = ["MergeForecast", "MergeReport", "forecast", "load", "merge_models", "sweep", "text", "with_tasks"]


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


def with_tasks(spec: MergeSpec, given: Sequence[str], here: Path) -> MergeSpec:
    """The merge with `PARENT=RECIPE` pairs put to its models, for a file that cannot name them. PARENT is a path of the file or its last part; recipes are relative to `here`.

    Raises InputError, with every problem, for a pair that is none, a parent that is not there or not the only one of its name, and a recipe that is no file.
    """
    problems, found = [], dict[str, str]()
    for one in given:
        parent, _, recipe = one.partition("=")
        fitting = [path for path in spec.inputs if parent in (path, Path(path).name)]
        if not parent or not recipe:
            problems.append(Problem("--task", f'"{one}" is no PARENT=RECIPE', "write --task billing/adapter=billing/recipe.yaml"))
        elif len(fitting) != 1:
            fix = did_you_mean(parent, spec.inputs) if not fitting else f"write its path: {fitting[0]}"
            problems.append(Problem("--task", f'"{parent}" is {len(fitting) or "none"} of the models', fix))
        elif fitting[0] in found:
            problems.append(Problem("--task", f'"{parent}" has two recipes', "give each parent one"))
        else:
            found[fitting[0]] = str((here / recipe).absolute())
    if problems:
        raise InputError(*problems)
    own = [source.model_copy(update={"task": found[source.path]}) if source.path in found else source for source in spec.models]
    slices = [
        one.model_copy(
            update={"sources": [source.model_copy(update={"task": found[source.path]}) if source.path in found else source for source in one.sources]}
        )
        for one in spec.slices
    ]
    return spec.model_copy(update={"models": own, "slices": slices})


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
    lines += [f"not taken over: {one['key']}: {one['why']}" for one in done.untranslated]
    if isinstance(done, MergeForecast):
        lines.append(
            f"would write {done.tensors} tensors, {done.bytes:,} bytes; about {done.memory / 2**20:.0f} MiB of pieces and {done.seconds:.0f} s (estimated)"
        )
        return "\n".join(lines)
    lines.append(f"{done.changed:.1%} of the values changed, by {done.moved:.4f} of their length")
    lines.append(f"{done.tensors} tensors, {done.bytes:,} bytes in {done.seconds:.1f} s; peak memory {done.peak / 2**20:.0f} MiB")
    if done.verdict is not None:
        from planish.evidence.merged import lines as table

        lines += [*table(done.verdict), done.verdict["sentence"]]
    return "\n".join(lines)
