"""The tuned model merged with others, as an entry of a recipe asks: written, and held against every parent and the base on this gold set, on those of the parents that name
their task, and on general text (MISSION W6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from planish.errors import InputError, Problem
from planish.evidence.merged import BASE, verdict
from planish.model import bundled, trained
from planish.model.chat import Chat
from planish.model.merge_checks import BASE as BASE_SAID
from planish.model.merge_sources import is_adapter
from planish.model.merging import METHODS, WITH_BASE, MergeSpec, read_spec
from planish.recipe import Recipe
from planish.recipe_compress import MergeEntry
from planish.rows import content_hash
from planish.scores import EvalReport
from planish.stages import prepare
from planish.stages._context import Context
from planish.stages._gold import Gold, read_gold
from planish.stages._merge import merge_models
from planish.stages._merge_opened import open_merge
from planish.stages._merge_tasks import GENERAL_ABILITY, TUNED, General, ParentTask, named, parent_task, score
from planish.stages._variants import Variant
from planish.store.objects import file_hash, write_folder

OURS = "this task"


def spec_of(entry: MergeEntry, base: Path, place: Callable[[Path], Path], where: str, tuned: str = TUNED) -> MergeSpec:
    """What `planish merge` would read. Raises InputError with every problem of it, and for a parent that is no folder or whose task is no recipe."""
    others = [dict(one) if isinstance(one, dict) else {"path": one} for one in entry.models]
    missing = [one for one in others if not isinstance(one.get("path"), str) or not place(Path(one["path"])).is_dir()]
    if missing:
        raise InputError(*(Problem(f"{where}.models", f"{one.get('path')} is no folder", "give the folder of a model or of an adapter") for one in missing))
    tasks = [str(one["task"]) for one in others if one.get("task") is not None]
    if absent := [task for task in tasks if not place(Path(task)).is_file()]:
        raise InputError(*(Problem(f"{where}.models", f"the task {task} is no file", "give the recipe that the parent was tuned by") for task in absent))
    parts = [
        one | {"path": str(place(Path(one["path"])).absolute())} | ({} if one.get("task") is None else {"task": str(place(Path(str(one["task"]))).absolute())})
        for one in others
    ]
    own = {key: getattr(entry, key) for key in ("weight", "density") if getattr(entry, key) is not None}
    given: dict[str, Any] = {"method": entry.method, "models": [{"path": tuned, **own}, *parts]}
    if entry.base is not None:
        given["base"] = str(place(Path(entry.base)).absolute())
    elif METHODS.get(entry.method) in WITH_BASE or any(is_adapter(Path(part["path"])) for part in parts):
        given["base"] = str(base.absolute())
    for key, value in (("lambda", entry.lambda_), ("t", entry.t), ("normalize", entry.normalize), ("seed", entry.seed)):
        if value is not None:
            given[key] = value
    return read_spec(given, where)


def refusals(entry: MergeEntry, base: Path, place: Callable[[Path], Path], where: str) -> list[Problem]:
    """What is wrong with an entry while the tuned model is not there yet: its keys, and parents or a base that do not fit the recipe's model, and so not what is tuned from it."""
    with TemporaryDirectory() as aside:
        stand = str(untuned(base, Path(aside) / TUNED))
        try:
            open_merge(spec_of(entry, base, place, where, stand), base.parent)
        except InputError as refused:
            return [Problem(*(said.replace(stand, f"the {TUNED} model") for said in (one.where, one.why, one.fix))) for one in refused.problems]
    return []


def untuned(base: Path, place: Path) -> Path:
    """The base in a folder of its own, which says that it was tuned from it: it stands for a tuned model that is not there yet and will have its shapes, tokens and base."""
    place.mkdir()
    for file in base.iterdir():
        if file.is_file() and file.name != BASE_SAID:
            (place / file.name).symlink_to(file.resolve())
    trained.name_base(place, base)
    return place


def identities(recipe: Recipe, entry: MergeEntry) -> list[str]:
    """The parents, the base and the tasks that an entry names, by content. Raises InputError for a task whose recipe or rows cannot be read."""
    paths = [one["path"] if isinstance(one, dict) else one for one in entry.models] + ([entry.base] if entry.base is not None else [])
    folders = [recipe.resolve(Path(path)) for path in paths]
    tasks = [Recipe.load(recipe.resolve(Path(str(one["task"])))) for one in entry.models if isinstance(one, dict) and one.get("task") is not None]
    found = [file_hash(one / "adapter_model.safetensors") if is_adapter(one) else bundled.identity(one) for one in folders]
    return found + [content_hash([task.fingerprint, prepare.options(task)]) for task in tasks]


def merged(
    context: Context,
    entry: MergeEntry,
    number: int,
    tuned: Path,
    base: Path,
    gold: Gold,
    prepared: Path,
    general: General | None,
    teacher: EvalReport,
    kept: EvalReport | None,
) -> Variant:
    """The merge, and the table of which skill survived: merge, parents and base on this task, on that of every parent that names one, and on general text.

    `teacher` and `kept` are the tuned model's own reports of this task and of general text, where it was measured.
    """
    recipe = context.recipe
    assert recipe.compress is not None
    name = f"merged-{number}"
    work = context.work / f"{name}-{content_hash({'entry': entry.model_dump(mode='json'), 'of': [bundled.identity(tuned), *identities(recipe, entry)]})[:12]}"
    spec = spec_of(entry, base, recipe.resolve, f"compress.merge[{number - 1}]", str(tuned.absolute()))
    if not work.is_dir():
        merge_models(spec, work, relative_to=work.parent, progress=context.progress)
    others = [Path(source.path) for source in spec.models[1:]]
    called = named(others)
    own = replace(parent_task(TUNED, context, gold, prepared), name=OURS)
    tasks = [own, *(_task(context, one, source.task) for one, source in zip(called, spec.models[1:], strict=True) if source.task is not None)]
    under = base if spec.base is None else Path(spec.base)
    parents = {TUNED: tuned, **dict(zip(called, others, strict=True)), BASE: under}
    known = {(OURS, TUNED): teacher, **({(GENERAL_ABILITY, TUNED): kept} if kept is not None else {})}
    found = verdict(score(tasks, work, parents, under, Chat.load(tuned), general, known))
    context.progress.say(f"  {name}: {found.sentence}")
    story = {"kind": "merged", "method": entry.method, "parents": called, "verdict": found.model_dump(mode="json")}
    return Variant(name, work, entry.export or recipe.compress.export, story, cut=False)


def _task(context: Context, owner: str, path: str) -> ParentTask:
    """The gold set of another recipe, prepared in this stage's own folder."""
    within = replace(context, recipe=Recipe.load(path))
    folder = context.work / f"task-{content_hash(prepare.options(within.recipe))[:12]}"
    if not folder.is_dir():
        write_folder(folder, lambda partial: prepare.run(within, {}, partial))
    return parent_task(owner, within, read_gold(context.store, context.run_id, context.stage, folder), folder)
