"""Rows in: read, held to their contract, checked, split so that no group crosses, and the gold set sealed. Every row ends accepted or rejected with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from planish.data import dataset, gold, hub, mapping
from planish.data.gold_lock import read_lock
from planish.data.moments import moments
from planish.data.reading import Reading, TooManyMalformed, read_rows, stored
from planish.data.split import SPLITS, SplitName
from planish.data.split_kept import carried
from planish.data.table import Keys, Table, keys_of
from planish.data.task import Task, infer, make, require_recipe, row_shape
from planish.errors import InputError, Problem, did_you_mean
from planish.events import EventType
from planish.evidence.power import minimum_detectable_drop
from planish.recipe import Recipe
from planish.recipe_data import DataSection
from planish.recipe_keys import Use
from planish.rows import canonical_json
from planish.stages._context import Context, Inputs
from planish.stages._examined import Examined, Places, examine
from planish.store.objects import file_hash, write_atomic

NEEDS: tuple[str, ...] = ()


def options(recipe: Recipe) -> dict[str, Any]:
    """The data section, and the rows by content. A missing file is refused before anything runs, and what a data set as `path` has already."""
    beside = {name: path for name, path in (("data.gold", recipe.data.gold), ("data.split.keep", recipe.data.split.keep)) if path is not None}
    if beside and (recipe.resolve(recipe.data.path) / dataset.MANIFEST).is_file():
        why, fix = f"{recipe.data.path} is a data set, which has gold rows and a split of its own", "leave it out, or give the file of rows as data.path"
        raise InputError(*(Problem(name, why, fix) for name in beside))
    sources = {"data.path": recipe.data.path} | beside
    return {
        "data": recipe.data.model_dump(mode="json", exclude={"path", "gold"}),
        "model": recipe.model,
        **{name: _content(recipe, name, path) for name, path in sources.items()},
    }


def agree(recipe: Recipe, folder: Path) -> None:
    """Raise InputError where the recipe asks of these rows what their task cannot be asked: the rows may be unchanged since another recipe's run."""
    require_recipe(recipe, dataset.read(folder).task.shape)


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """The dataset folder: rows.jsonl, rejected.jsonl, split.json, gold.json, manifest.json, findings/."""
    section = context.recipe.data
    path = context.recipe.resolve(section.path)
    grown = dataset.read(path) if (path / dataset.MANIFEST).is_file() else None
    earlier = grown if grown is not None else _kept(context.recipe)
    reading = _stored(grown) if grown is not None else _read(context)
    task = _task(context, reading)
    checks = _checks(context.recipe, task)
    places = Places(
        section.split,
        existing=_existing(context, reading, earlier, grown is not None),
        gold_ids=_gold_ids(context, reading),
        copies=all(use.name != "leakage" for use in checks),
        times=_times(section.split.time_by, reading.accepted.without(reading.behind)) if earlier is None else None,
    )
    examined = examine(reading, task, checks, places, cache(lambda: _chat(context.recipe)), lambda name: context.progress.say(f"  check {name}"))
    if reading.mapping:
        write_atomic(folder / "mapping.yaml", (mapping.yaml(reading.mapping) + "\n").encode())
        context.progress.say("  columns read as: " + ", ".join(f"{column} → {key}" for column, key in reading.mapping.items()))
    if reading.changes:
        lines = (canonical_json({"row": row_id, **change._asdict()}) + "\n" for row_id, change in reading.changes)
        write_atomic(folder / "cleaned.jsonl", (line.encode() for line in lines))
        context.progress.say(f"  {len({row_id for row_id, _ in reading.changes})} rows tidied, each change kept in cleaned.jsonl; answers are never touched")
    reading, split = examined.reading, examined.split
    version = grown.manifest.version if grown is not None else _own_version(context, earlier)
    kept = reading.accepted.where(split.assignment[key.id] == "gold" for key in reading.accepted.keys)
    hidden = {row_id for row_id in kept.ids if gold.is_blind(row_id, section.split.blind)}
    sealed = gold.build(kept.without(hidden), task, version=version)
    blind = gold.build(kept.where(key.id in hidden for key in kept.keys), task, version=version) if section.split.blind else None
    parents = grown.manifest.parents if grown is not None else () if earlier is None else (earlier.sha256,)
    made = dataset.write(
        folder,
        reading.accepted,
        reading.rejected,
        split.assignment,
        sealed,
        task,
        blind=blind,
        found=examined.found,
        often=_often(examined, grown),
        version=version,
        parents=parents,
    )
    context.event(EventType.DATASET_WRITTEN, dict(made.manifest.counts))
    context.event(EventType.GOLD_SEALED, {"sha256": sealed.sha256, "rows": len(sealed.samples), "version": sealed.version})
    _say(context, made.manifest.counts, examined)
    if earlier is None:
        _say_moved(context, reading.accepted.keys, split.assignment)


def _often(examined: Examined, grown: dataset.Dataset | None) -> dict[str, int]:
    """How often each kept row stood in the data, where `duplicates` was to count: now, and before an earlier version set its copies aside."""
    counted = examined.found["duplicates"].figures.get("weights") if "duplicates" in examined.found else None
    if counted is None:
        return {}
    before = dataset.frequencies(grown) if grown is not None else {}
    rows = set(examined.reading.accepted.ids)
    return {row: before.get(row, 1) + counted.get(row, 1) - 1 for row in sorted(before.keys() | counted.keys()) if row in rows}


def _content(recipe: Recipe, key: str, given: Path) -> str:
    """The hash of what a path holds. A data set is known by its manifest, one on the hub by its commit, a folder of files by all of them."""
    path = recipe.resolve(given)
    if hub.named(path):
        return f"{path} at {hub.commit(str(path))}"
    if (path / dataset.MANIFEST).is_file():
        return file_hash(path / dataset.MANIFEST)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        fix = "give the path of the rows, relative to the recipe"
        raise InputError(Problem(f"{key}: {given}", "there is no such file or data set", fix))
    return canonical_json([file_hash(file) for file in files])


def _read(context: Context) -> Reading:
    """The rows of the files. Too many malformed ones stop the run; they are kept in the workspace all the same."""
    section = context.recipe.data
    task = section.task or ("classification" if section.labels is not None else None)
    shape = row_shape(task) if task is not None else None
    paths = [context.recipe.resolve(path) for path in (section.path, section.gold) if path is not None]
    try:
        return read_rows(
            *paths,
            shape=shape,
            labels=section.labels,
            group_by=section.split.group_by,
            mapping=section.mapping,
            clean=section.clean,
            mixed=section.mixed,
        )
    except TooManyMalformed as refused:
        path = context.work / "rejected.jsonl"
        write_atomic(path, ((canonical_json(row.model_dump(mode="json")) + "\n").encode() for row in refused.reading.rejected))
        raise InputError(
            *refused.problems, Problem(str(path), "holds every refused row with its reason", "mend them, and give the same command again")
        ) from None


def _stored(grown: dataset.Dataset) -> Reading:
    """The rows of an earlier version that feedback has grown: their splits stay as they are stored."""
    return stored(dataset.every_row(grown), tuple(dataset.rejected_rows(grown)), str(grown.folder), grown.task.labels)


def _kept(recipe: Recipe) -> dataset.Dataset | None:
    """The data set whose rows stay where they lie while others are added."""
    given = recipe.data.split.keep
    return dataset.read(recipe.resolve(given)) if given is not None else None


def _existing(context: Context, reading: Reading, earlier: dataset.Dataset | None, grown: bool) -> Mapping[str, SplitName] | None:
    """The sides that rows have already. A grown data set has its ids from us; those of a file may mean other rows by now, so that its rows are found again by what they ask."""
    if earlier is None or grown:
        return dataset.assignment(earlier) if earlier is not None else None
    placed = dataset.assignment(earlier)
    sides = carried(reading.accepted.keys, list(map(keys_of, dataset.every_row(earlier))), placed)
    gone = Counter(placed.values()) - Counter(sides.values())
    if gone:
        told = f"{gone.total()} of {len(placed)} rows of the data set that is kept are not in {context.recipe.data.path} any more"
        context.progress.say(f"  {told}: " + ", ".join(f"{gone[name]} of {name}" for name in SPLITS if gone[name]))
    return sides


def _task(context: Context, reading: Reading) -> Task:
    """The task as the recipe says, else as the rows say; what means nothing for it is refused here, before anything is computed."""
    section = context.recipe.data
    shape = section.task
    if shape is None:
        with_tools = any(getattr(row, "tools", ()) for row in reading.accepted) if {key.shape for key in reading.accepted.keys} == {"chat"} else False
        shape = infer((key.shape for key in reading.accepted.keys), tools=with_tools)
    require_recipe(context.recipe, shape)
    absent = sorted(set(section.labels or ()) - {key.label for key in reading.accepted.keys})
    if absent:
        fix = "add rows of it, or take it out of the labels"
        raise InputError(*(Problem("data.labels", f'no row is labelled "{label}"', fix) for label in absent))
    return make(shape, reading.labels, section.instruction)


def _gold_ids(context: Context, reading: Reading) -> frozenset[str]:
    """The rows that come as gold, from a file of their own."""
    given = context.recipe.data.gold
    if given is None:
        return frozenset()
    gold.require_apart(context.recipe.resolve(context.recipe.data.path), context.recipe.resolve(given), f"data.gold: {given}")
    return reading.behind


def _own_version(context: Context, earlier: dataset.Dataset | None) -> int:
    """The version of a gold file that is locked; a draft is version 1, and so is a gold set drawn from the rows, unless it grew from an earlier one.

    Raises InputError when the file was edited.
    """
    given = context.recipe.data.gold
    lock = read_lock(context.recipe.resolve(given)) if given is not None else None
    if given is not None and lock is None and not hub.named(given):
        context.progress.say(f"  {given} is a draft: planish gold lock {given} --why '...' makes every later change a version")
    if lock is not None:
        return lock.version
    return earlier.manifest.version + 1 if earlier is not None and given is None else 1


def _times(column: str | None, rows: Table) -> Mapping[str, float] | None:
    """When each row was made, for a split by time; rows without it are refused where they are divided. Raises InputError for a column that no row has."""
    if column is None:
        return None
    given, columns = dict[str, Any](), set[str]()
    for row in rows:
        columns |= row.extra.keys()
        given[row.id] = row.extra.get(column)
    if column not in columns:
        raise InputError(Problem("data.split.time_by", f'no row has a column "{column}"', did_you_mean(column, columns)))
    return moments(given, "data.split.time_by")


def _checks(recipe: Recipe, task: Task) -> list[Use]:
    """The checks of the recipe, where it leaves them as they are with those that only its task has something for; the files that leakage is looked for in are relative to it, as
    every path of it is."""
    found = []
    own = [Use(name="preferences")] if task.shape == "preference" and recipe.data.checks == DataSection.model_fields["checks"].default else []
    for use in [*recipe.data.checks, *own]:
        files = use.options.get("benchmarks")
        resolved = {"benchmarks": [str(recipe.resolve(Path(file))) for file in files]} if isinstance(files, list) else {}
        found.append(use.model_copy(update={"options": use.options | resolved}))
    return found


def _chat(recipe: Recipe) -> Any:
    """Tokenizer and template of the model, for the checks that look at tokens."""
    from planish.model import bundled
    from planish.model.chat import Chat

    return Chat.load(bundled.locate(recipe.model, recipe.source.parent if recipe.source else None))


def _say(context: Context, counts: Mapping[str, int], examined: Examined) -> None:
    """What was read, what was set aside and why, what each check points out, and how much the gold set can see."""
    codes = Counter(row.code.value for row in examined.reading.rejected)
    said = ", ".join(f"{count} {code}" for code, count in sorted(codes.items())) or "none"
    context.progress.say(f"  {counts['n_in']} rows read, {counts['n_accepted']} accepted, {counts['n_rejected']} set aside ({said})")
    warned = Counter(f"{finding.code.value}" for result in examined.found.values() for finding in result.findings if finding.severity == "warn")
    if warned:
        context.progress.say("  to look at: " + ", ".join(f"{count} {code}" for code, count in sorted(warned.items())))
    context.progress.say("  " + ", ".join(f"{name} {counts[name]}" for name in ("train", "validation", "gold", "unused")))
    drop = minimum_detectable_drop(counts["gold"])
    seen = f"a drop of {drop:.1%}" if drop is not None else "no drop at all"
    context.progress.say(f"  what {counts['gold']} gold rows can see, 8 times of 10: {seen} (a paired test at 5 %, 3 % of rows flipping by chance)")


def _say_moved(context: Context, rows: Sequence[Keys], assignment: Mapping[str, SplitName]) -> None:
    """Rows that lie on another side than after the last run of this recipe: a file that has grown is divided anew unless the recipe says what to keep."""
    name = context.store.run(context.run_id)["name"]
    runs = (run["id"] for run in context.store.runs() if run["name"] == name and run["id"] != context.run_id)
    made = next((artifact for run in runs if (artifact := context.store.stages(run).get("prepare", {}).get("artifact")) is not None), None)
    if made is None or not context.store.objects.has(made):
        return
    try:
        last = dataset.read(context.store.path(made))
        before = dataset.assignment(last)
    except InputError:  # damaged since: nothing can be compared, and nothing depends on it
        return
    if before.items() <= assignment.items():
        return
    before = carried(rows, list(map(keys_of, dataset.every_row(last))), before)
    moved = [(side, assignment[row_id]) for row_id, side in before.items() if assignment[row_id] != side]
    if moved:
        trained = sum(was == "gold" and now == "train" for was, now in moved)
        told = f"{len(moved)} rows lie on another side than after the last run of this recipe ({trained} of its gold rows would be trained on)"
        context.progress.say(f"  {told}; to keep rows where they were: data.split.keep: {context.store.path(made)}")
