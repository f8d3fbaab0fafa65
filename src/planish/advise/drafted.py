"""The advice as a recipe that can be run: its baselines in order of cost, what trains in order of composition, small-data settings with their reasons beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planish import rules
from planish.advise.measured import Looked
from planish.data import hub
from planish.data.task import FORGETTING, KINDS, METRICS, TRIVIAL
from planish.errors import InputError, Problem
from planish.evidence.guide import Advice, Answers, Recommendation, rungs
from planish.evidence.guide_rows import PHASES, guide
from planish.evidence.small_data import RATES, Settings, settings
from planish.recipe import Recipe
from planish.store.objects import write_atomic

TRAINING = ("cpt", "sft", "preference", "rl")
_PHASE = {rule.technique: rule.phase for rule in guide().rules}


def recipe(advice: Advice, looked: Looked, answers: Answers, model: str, goal: str | None = None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The keys of a recipe, and why each setting of training is what it is. Techniques that need a model of their own (a student, a pruned one) are not in it: theirs
    stand in their recommendations.

    Raises InputError for a goal on a metric that the task does not have."""
    task = looked.task
    drawn: dict[str, Any] = {"recipe": 1, "model": model, "data": {"path": looked.source} | ({"task": task} if task else {})}
    valid = KINDS[task].baselines if task else ()
    baseline = [name for rung in rungs(looked.facts, answers) if rung.kind == "baseline" and (name := rung.technique) in valid]
    if "rag" in baseline and not looked.facts.documents:
        baseline.remove("rag")  # it needs the path of documents, which nobody has given
    floor = [name for name in TRIVIAL if name in valid]
    if baseline:
        drawn["baseline"] = [*floor, *(name for name in baseline if name not in floor)]
    entries, why = _training(advice, looked)
    if entries:
        drawn["train"] = entries
    if goal is not None:
        rule = rule_of(goal, task)
        metric = rules.parse(rule).metric
        drawn["gate"] = [rule, *([f"{metric} {'<' if '<' in rule else '>'} best_baseline.{metric}", FORGETTING] if entries else [])]
    for one in advice.recommendations:
        if one.runnable and "compress" in one.recipe and entries:
            drawn.setdefault("compress", one.recipe["compress"])
    return drawn, why


def rule_of(goal: str, task: str | None) -> str:
    """A goal as a gate rule: `macro_f1 >= 0.85` is taken for the task's own scorer. Raises InputError for a metric that is none of the task's."""
    metric, space, rest = goal.strip().partition(" ")
    full = metric
    if task is not None and "." not in metric:
        scorer = next((name for name in KINDS[task].scorers if metric in METRICS[name]), None)
        if scorer is None:
            known = ", ".join(name for scorer in KINDS[task].scorers for name in METRICS[scorer])
            raise InputError(Problem("--goal", f'"{metric}" is no metric of {task}', f"known: {known}"))
        full = f"{scorer}.{metric}"
    return str(rules.parse(f"{full}{space}{rest}", where="--goal"))


def bar_of(goal: str) -> float:
    """The number in a goal. Raises InputError where it compares two systems."""
    parsed = rules.parse(goal, where="--goal")
    if parsed.reference is not None:
        raise InputError(Problem("--goal", f'"{goal}" compares two systems', 'a goal is a fixed bar: "macro_f1 >= 0.85"'))
    return parsed.offset


def _training(advice: Advice, looked: Looked) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """One entry a phase, the first recommended of each, in order of composition."""
    first: dict[str, Recommendation] = {}
    for one in advice.recommendations:
        phase = _PHASE[one.technique]
        if phase in TRAINING and one.runnable and "train" in one.recipe and "model" not in one.recipe and one.command == "planish run":
            first.setdefault(phase, one)
    entries, why = [], list[str]()
    for one in sorted(first.values(), key=lambda one: PHASES.index(_PHASE[one.technique])):
        for entry in one.recipe["train"]:
            found = _settings(entry, looked.train_rows)
            own = {"epochs": found.epochs, "batch_size": found.batch_size, "warmup": found.warmup, "learning_rate": found.learning_rate} if found else {}
            entries.append({**entry, **{key: value for key, value in own.items() if key not in entry}})
            why += [f"{one.technique}: {line}" for line in (found.why if found else ())]
    return entries, tuple(why)


def _settings(entry: Mapping[str, Any], rows: int) -> Settings | None:
    """Small-data settings of an entry; None where there are no rows to count."""
    adapter = entry["adapter"] if isinstance(entry["adapter"], str) else next(iter(entry["adapter"]))
    technique = entry["objective"] if entry["objective"] in RATES else adapter
    return settings(rows, technique) if rows and technique in RATES else None


def yaml(drawn: Mapping[str, Any], said: tuple[str, ...]) -> str:
    """The recipe as a file, with what was said as comments at its head."""
    from ruamel.yaml import YAML

    out = io.StringIO()
    writer = YAML()
    writer.width = 150
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.dump(dict(drawn), out)
    return "".join(f"# {line}\n" for line in said) + out.getvalue()


def write(path: Path, drawn: Mapping[str, Any], said: tuple[str, ...]) -> Recipe:
    """Write the recipe and read it back: what is written is accepted by the loader. Paths in it are made relative to it.

    Raises InputError where the file exists, and as the loader."""
    import os

    if path.exists():
        raise InputError(Problem(str(path), "exists already", "name a new file: nothing is overwritten"))
    data = dict(drawn["data"])
    if not hub.named(data["path"]):
        data["path"] = os.path.relpath(data["path"], path.parent)
    write_atomic(path, yaml({**drawn, "data": data}, said).encode())
    try:
        return Recipe.load(path)
    except InputError:
        path.unlink()
        raise
