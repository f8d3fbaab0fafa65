"""A merge written and then scored on every parent's own gold set: which skill survived, and whether it is kept or each parent is served by itself (MISSION W6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planish import pipeline
from planish.errors import InputError, Problem
from planish.evidence.merged import BASE, verdict
from planish.merge_greedy import chosen
from planish.model.chat import Chat
from planish.model.merge_sources import placed
from planish.model.mergekit_yaml import Untranslated
from planish.model.merging import MergeSpec
from planish.progress import Progress
from planish.recipe import Recipe
from planish.rows import canonical_json
from planish.stages._context import Context
from planish.stages._gold import read_gold
from planish.stages._merge import made_before, merge_models
from planish.stages._merge_opened import open_for
from planish.stages._merge_report import REPORT, MergeReport
from planish.stages._merge_tasks import ParentTask, general_of, named, parent_task, score
from planish.store import Store
from planish.store.objects import write_atomic


def tasks_of(spec: MergeSpec, relative_to: Path, workspace: Path, progress: Progress) -> list[ParentTask]:
    """The gold sets of the parents that name their task. Their rows are prepared in the workspace where they are not; each reading of a gold set is an event there.

    Raises InputError, with the problems of all of them, before any model is loaded.
    """
    recipes = {source.path: relative_to / source.task for source in spec.sources if source.task is not None}
    called = dict(zip(spec.inputs, named([placed(path, relative_to).absolute() for path in spec.inputs]), strict=True))
    problems: list[Problem] = []
    loaded: dict[str, Recipe] = {}
    for path, place in recipes.items():
        try:
            loaded[path] = Recipe.load(place)
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))
    tasks = []
    for path, recipe in loaded.items():
        try:
            outcome = pipeline.run(recipe.model_copy(update={"train": []}), workspace=workspace, until="prepare", progress=progress)
            folder = outcome.stages["prepare"].folder
            assert folder is not None  # nothing gates prepare
            store = Store(workspace)
            gold = read_gold(store, outcome.run_id, "evaluate", folder)
            store.close()
            tasks.append(parent_task(called[path], Context(recipe, store, outcome.run_id, "evaluate", workspace, progress), gold, folder))
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return tasks


def scored(
    spec: MergeSpec,
    out: Path,
    *,
    relative_to: Path,
    untranslated: list[Untranslated] | None = None,
    workspace: Path = Path(".planish"),
    progress: Progress,
    greedy: bool = False,
) -> MergeReport:
    """Write the merge, of a `greedy` soup the models that validation rows choose, then score it, its parents and its base on every task that the parents name and on
    general text (that of the first task's recipe).

    The verdict is part of the report, in memory and in `merge_report.json`. A merge that was written and not scored to its end is not written again. Raises InputError as
    `merge_models` and `tasks_of` do, before anything is written.
    """
    if out.exists() and not (out / REPORT).is_file():
        raise InputError(Problem(str(out), "exists already", "give a new folder"))
    open_for(spec, out, relative_to)  # what cannot be merged is refused before rows are prepared and models scored
    tasks = tasks_of(spec, relative_to, workspace, progress)
    asked = chosen(spec, tasks, out, relative_to, progress) if greedy else spec
    done = made_before(asked, out, relative_to)
    if done is None:
        done = merge_models(asked, out, relative_to=relative_to, untranslated=untranslated, progress=progress)
    else:
        progress.say(f"  {out} is this merge already: it is scored")
    done = done.model_copy(update={"verdict": _judged(spec, out, relative_to, tasks)})
    write_atomic(out / REPORT, (canonical_json(done.model_dump(mode="json")) + "\n").encode())
    return done


def _judged(spec: MergeSpec, out: Path, relative_to: Path, tasks: Sequence[ParentTask]) -> dict[str, Any]:
    folders = [placed(path, relative_to).absolute() for path in spec.inputs]
    parents: dict[str, Path] = dict(zip(named(folders), folders, strict=True))
    base = None if spec.base is None else placed(spec.base, relative_to)
    if base is not None and base.absolute() not in folders:
        parents[BASE] = base.absolute()
    general = general_of(tasks[0].context, tasks[0].gold.task.shape)
    found = verdict(score(tasks, out, parents, base, Chat.load(out), general))
    return found.model_dump(mode="json")
