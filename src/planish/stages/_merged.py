"""The tuned model merged with others, as an entry of a recipe asks: written, and held against every parent on this gold set and on general text (MISSION W6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem
from planish.evidence.merged import TaskScores, verdict
from planish.model import adapter_folder, bundled
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.merge_sources import is_adapter
from planish.model.merging import METHODS, WITH_BASE, MergeSpec, read_spec
from planish.recipe import MergeEntry, Recipe
from planish.rows import content_hash
from planish.scores import EvalReport
from planish.stages._context import Context
from planish.stages._merge import merge_models
from planish.stages._scoring import primary
from planish.stages._variants import Score, Variant
from planish.store.objects import file_hash

TUNED = "tuned"
GENERAL = "general.next_token_accuracy"
General = Callable[[Any, Chat, str], EvalReport | None]
"""A model, its tokenizer and a name -> what it scores on general text, None where nobody asked for that."""


def spec_of(entry: MergeEntry, base: Path, place: Callable[[Path], Path], where: str, tuned: str = TUNED) -> MergeSpec:
    """What `planish merge` would read. Raises InputError with every problem of it, and for a parent that is no folder."""
    others = [dict(one) if isinstance(one, dict) else {"path": one} for one in entry.models]
    missing = [one for one in others if not isinstance(one.get("path"), str) or not place(Path(one["path"])).is_dir()]
    if missing:
        raise InputError(*(Problem(f"{where}.models", f"{one.get('path')} is no folder", "give the folder of a model or of an adapter") for one in missing))
    parts = [one | {"path": str(place(Path(one["path"])).absolute())} for one in others]
    own = {key: getattr(entry, key) for key in ("weight", "density") if getattr(entry, key) is not None}
    given: dict[str, Any] = {"method": entry.method, "models": [{"path": tuned, **own}, *parts]}
    if entry.base is not None:
        given["base"] = str(place(Path(entry.base)).absolute())
    elif METHODS.get(entry.method) in WITH_BASE or any(is_adapter(Path(part["path"])) for part in parts):
        given["base"] = str(base)
    for key, value in (("lambda", entry.lambda_), ("t", entry.t), ("normalize", entry.normalize), ("seed", entry.seed)):
        if value is not None:
            given[key] = value
    return read_spec(given, where)


def identities(recipe: Recipe, entry: MergeEntry) -> list[str]:
    """The parents and the base that an entry names, by content."""
    paths = [one["path"] if isinstance(one, dict) else one for one in entry.models] + ([entry.base] if entry.base is not None else [])
    folders = [recipe.resolve(Path(path)) for path in paths]
    return [file_hash(one / "adapter_model.safetensors") if is_adapter(one) else bundled.identity(one) for one in folders]


def merged(
    context: Context,
    entry: MergeEntry,
    number: int,
    tuned: Path,
    base: Path,
    score: Score,
    general: General,
    teacher: EvalReport,
    kept: EvalReport | None,
    groups: Mapping[str, str] | None = None,
) -> Variant:
    """The merge, and the table of which skill survived: every parent on this task, and on general text where `kept`, the tuned model's own report of it, is given."""
    recipe = context.recipe
    assert recipe.compress is not None
    name = f"merged-{number}"
    work = context.work / f"{name}-{content_hash({'entry': entry.model_dump(mode='json'), 'of': [bundled.identity(tuned), *identities(recipe, entry)]})[:12]}"
    spec = spec_of(entry, base, recipe.resolve, f"compress.merge[{number - 1}]", str(tuned.absolute()))
    if not work.is_dir():
        merge_models(spec, work, relative_to=work.parent, progress=context.progress)
    metric = primary(recipe.evaluate.scorers)
    reports, broad = {TUNED: teacher}, {TUNED: kept}
    parents = [Path(path) for path in spec.inputs[1:]]
    names = [path.name for path in parents]
    called_as = [one if names.count(one) == 1 else f"{path.parent.name}/{one}" for one, path in zip(names, parents, strict=True)]
    for called, path in zip((name, *called_as), (work, *parents), strict=True):
        model, chat = _opened(path, base), Chat.load(tuned)
        reports[called] = score(model, chat, f"gold set, {called}")
        broad[called] = general(model, chat, f"general ability, {called}") if kept is not None else None
        del model
    tasks = [TaskScores(task="this task", metric=metric, owner=TUNED, merge=reports.pop(name), parents=reports)]
    ours = broad.pop(name)
    if ours is not None and GENERAL in ours.metrics:
        tasks.append(
            TaskScores(task="general ability", metric=GENERAL, owner=None, merge=ours, parents={key: one for key, one in broad.items() if one is not None})
        )
    found = verdict(tasks, groups=groups)
    context.progress.say(f"  {name}: {found.sentence}")
    story = {"kind": "merged", "method": entry.method, "verdict": found.model_dump(mode="json")}
    return Variant(name, work, entry.export or recipe.compress.export, story, cut=False)


def _opened(path: Path, base: Path) -> Any:
    return adapter_folder.put(load(base, "fp32"), path).eval() if is_adapter(path) else load(path, "fp32")
