"""The parents' own gold sets: a merge, its parents and its base, one model in memory at a time, each asked every parent's task and general text (MISSION W6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from planish.data.task import filled
from planish.errors import InputError, Problem
from planish.evidence.merged import BASE, TaskScores
from planish.model import adapter_folder
from planish.model.chat import Chat
from planish.model.general import evaluate as general_ability
from planish.model.load import load
from planish.model.merge_sources import is_adapter
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages._asking import base_pairs, format_for
from planish.stages._context import Context
from planish.stages._general import general_rows
from planish.stages._gold import Gold
from planish.stages._scoring import primary, readable, require_references
from planish.stages.evaluate import Tuned, score_gold

GENERAL, GENERAL_ABILITY = "general.next_token_accuracy", "general ability"
"""The metric and its line of the table."""
MERGE, TUNED = "merge", "tuned"
RESERVED = (BASE, MERGE, TUNED)
"""Names of the table that no folder's name may stand in for."""
General = Callable[[Any, Chat, str], EvalReport]
"""A model, its tokenizer and a name -> what it scores on general text."""


@dataclass(frozen=True)
class ParentTask:
    """One parent's own task. `owner` is the parent's name in the table; `context` holds the recipe that it was tuned by, its scorers and decoding filled in; `prepared`
    its rows."""

    name: str
    owner: str
    context: Context
    gold: Gold
    prepared: Path

    @property
    def metric(self) -> str:
        """What parents and merge are compared by."""
        return primary(self.context.recipe.evaluate.scorers)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The number format in which it is answered."""
        return _format(self.context.recipe, self.gold.task.shape)


def parent_task(owner: str, context: Context, gold: Gold, prepared: Path) -> ParentTask:
    """The task of a recipe whose gold set was read. Raises InputError for scorers that would need more than an answer, and for a gold row that a scorer cannot use."""
    recipe = filled(context.recipe, gold.task.shape)
    if not readable(recipe.evaluate.scorers):
        names = ", ".join(use.name for use in recipe.evaluate.scorers)
        raise InputError(Problem(f"task of {owner}", f"{names} reads no answers", "name a scorer that reads answers beside it: evaluate.scorers"))
    require_references(gold, recipe.evaluate.scorers)
    unscreened = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"screen": None})})
    return ParentTask(f"task of {owner}", owner, replace(context, recipe=unscreened), gold, prepared)


def named(parents: Sequence[Path]) -> list[str]:
    """What parents are called: their folder's name, with as much of the path before it as tells them apart, and from what every table holds besides."""
    depth = {path: 1 for path in parents}
    while True:
        names = ["/".join(path.parts[-depth[path] :]) for path in parents]
        taken = [*names, *RESERVED]
        alike = [path for path, name in zip(parents, names, strict=True) if taken.count(name) > 1 and depth[path] < len(path.parts)]
        if not alike:
            return names
        for path in alike:
            depth[path] += 1


def opened(path: Path, base: Path | None) -> Any:
    """A parent or a merge in fp32, ready to be asked; an adapter on its base."""
    if not is_adapter(path):
        return load(path, "fp32")
    assert base is not None  # an adapter is merged only with its base
    return adapter_folder.put(load(base, "fp32"), path).eval()


def general_of(context: Context, shape: str) -> General | None:
    """What asks a model the general text of the recipe, in the number format of its task's shape; None where it names none."""
    recipe = context.recipe
    rows = general_rows(recipe)
    if not rows and not recipe.evaluate.general_tasks:
        return None

    def ask(model: Any, chat: Chat, name: str) -> EvalReport:
        with context.progress.bar(f"general ability, {name}", len(rows)) as advance:
            return general_ability(model, chat, rows, name, _format(recipe, shape), advance, tasks=recipe.evaluate.general_tasks)

    return ask


def score(
    tasks: Sequence[ParentTask],
    merge: Path,
    parents: Mapping[str, Path],
    base: Path | None,
    chat: Chat,
    general: General | None,
    known: Mapping[tuple[str, str], EvalReport] = MappingProxyType({}),
) -> list[TaskScores]:
    """Every model on every task, and on general text. `parents` are by name, the base among them where it is to be scored.

    `known` holds what was measured before, by task and model: it is not measured again.
    """
    said: dict[str, dict[str, EvalReport]] = {task.name: {} for task in tasks}
    broad: dict[str, EvalReport] = {}
    before = [base_pairs(base, task.gold, task.context.recipe.evaluate.scorers, task.precision) if base is not None else None for task in tasks]
    for name, folder in ((MERGE, merge), *parents.items()):
        wanted = [*(task.name for task in tasks), *([GENERAL_ABILITY] if general is not None else [])]
        model = opened(folder, base) if any((task, name) not in known for task in wanted) else None
        for task, pairs in zip(tasks, before, strict=True):
            report = known.get((task.name, name))
            if report is None:
                report = score_gold(task.context, Tuned(model, chat, task.precision), task.gold, pairs, what=f"{task.name}: {name}")
            said[task.name][name] = report.model_copy(update={"system": name})
        if general is not None:
            broad[name] = known[GENERAL_ABILITY, name] if (GENERAL_ABILITY, name) in known else general(model, chat, name)
        del model
    made = [
        TaskScores(
            task=task.name,
            metric=task.metric,
            owner=task.owner,
            merge=said[task.name].pop(MERGE),
            parents=said[task.name],
            groups=dict(task.gold.groups) if task.gold.groups else None,
        )
        for task in tasks
    ]
    ours = broad.pop(MERGE, None)
    if ours is None or GENERAL not in ours.metrics:
        return made
    return [*made, TaskScores(task=GENERAL_ABILITY, metric=GENERAL, owner=None, merge=ours, parents=broad)]


def _format(recipe: Recipe, shape: str) -> Literal["fp32", "bf16"]:
    return format_for(shape, recipe.train[-1].precision if recipe.train else "auto")
