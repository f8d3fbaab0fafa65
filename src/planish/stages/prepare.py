"""Rows in: read, held to their contract, checked, split so that no group crosses, and the gold set sealed. Every row ends accepted or rejected with its reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from planish import shelf
from planish.data import dataset, gold
from planish.data.contract import Reading, TooManyMalformed, read_rows
from planish.data.finding import Finding
from planish.data.split import divide
from planish.data.task import Task, chat, classification, require_scorer
from planish.errors import InputError, Problem
from planish.events import EventType
from planish.evidence.power import minimum_detectable_drop
from planish.recipe import Recipe
from planish.rows import canonical_json
from planish.stages._context import Context, Inputs
from planish.store.objects import file_hash, write_atomic

NEEDS: tuple[str, ...] = ()


def options(recipe: Recipe) -> dict[str, Any]:
    """The data section, and the rows by content. A missing file is refused before anything runs."""
    path = recipe.resolve(recipe.data.path)
    source = path / dataset.MANIFEST if path.is_dir() else path
    if not source.is_file():
        where = f"data.path: {recipe.data.path}"
        raise InputError(Problem(where, "there is no such file or data set", "give the path of the rows, relative to the recipe"))
    return {
        "data": recipe.data.model_dump(mode="json", exclude={"path"}),
        "sha256": file_hash(source),
        "scorers": [scorer.name for scorer in recipe.evaluate.scorers],
    }


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """The dataset folder: rows.jsonl, rejected.jsonl, split.json, gold.json, manifest.json."""
    section = context.recipe.data
    for scorer in context.recipe.evaluate.scorers:
        require_scorer(section.task, scorer.name)
    path = context.recipe.resolve(section.path)
    grown = dataset.read(path) if path.is_dir() else None
    reading = _stored(grown) if grown is not None else _read(context)
    existing = dataset.assignment(grown) if grown is not None else None
    task = _task(context, reading)
    found: dict[str, list[Finding]] = {}
    for use in section.checks:
        # what a check may need of the split is made anew each time, as each check may set rows aside
        split = divide(reading.accepted, existing=existing, **_shares(context)) if use.name == "leakage" else None
        found[use.name] = shelf.call("checks", use.name, "check", use.options)(reading.accepted, split.assignment if split else None)
        reading = reading.set_aside(found[use.name])
    split = divide(reading.accepted, existing=existing, **_shares(context))
    reading = reading.set_aside(split.findings)
    version = grown.manifest.version if grown is not None else 1
    sealed = gold.build([row for row in reading.accepted if split.assignment[row.id] == "gold"], task, version=version)
    parents = grown.manifest.parents if grown is not None else ()
    made = dataset.write(folder, reading.accepted, reading.rejected, split.assignment, sealed, task, findings=found, version=version, parents=parents)
    context.event(EventType.DATASET_WRITTEN, dict(made.manifest.counts))
    context.event(EventType.GOLD_SEALED, {"sha256": sealed.sha256, "rows": len(sealed.samples), "version": sealed.version})
    counts = made.manifest.counts
    codes = Counter(row.code.value for row in reading.rejected)
    said = ", ".join(f"{count} {code}" for code, count in sorted(codes.items())) or "none"
    context.progress.say(f"  {counts['n_in']} rows read, {counts['n_accepted']} accepted, {counts['n_rejected']} set aside ({said})")
    context.progress.say("  " + ", ".join(f"{name} {counts[name]}" for name in ("train", "validation", "gold", "unused")))
    drop = minimum_detectable_drop(counts["gold"])
    seen = f"a drop of {drop:.1%}" if drop is not None else "no drop at all"
    context.progress.say(f"  what {counts['gold']} gold rows can see, 8 times of 10: {seen} (a paired test at 5 %, 3 % of rows flipping by chance)")


def _read(context: Context) -> Reading:
    """The rows of the file. Too many malformed ones stop the run; they are kept in the workspace all the same."""
    section = context.recipe.data
    shape = {"classification": "label", "chat": None}[section.task]
    try:
        return read_rows(context.recipe.resolve(section.path), shape=shape, labels=section.labels, group_by=section.split.group_by)
    except TooManyMalformed as refused:
        path = context.work / "rejected.jsonl"
        write_atomic(path, b"".join((canonical_json(row.model_dump(mode="json")) + "\n").encode() for row in refused.reading.rejected))
        raise InputError(
            *refused.problems, Problem(str(path), "holds every refused row with its reason", "mend them, and give the same command again")
        ) from None


def _stored(grown: dataset.Dataset) -> Reading:
    """The rows of an earlier version that feedback has grown: their splits stay as they are stored."""
    rows, rejected = tuple(dataset.every_row(grown)), tuple(dataset.rejected_rows(grown))
    raw = {row.id: canonical_json(row.model_dump(mode="json")) for row in rows}
    return Reading(str(grown.folder), len(rows) + len(rejected), rows, rejected, raw, grown.task.labels)


def _task(context: Context, reading: Reading) -> Task:
    section = context.recipe.data
    return classification(reading.labels, section.instruction) if section.task == "classification" else chat(section.instruction)


def _shares(context: Context) -> dict[str, Any]:
    split = context.recipe.data.split
    return {"validation": split.validation, "gold": split.gold, "gold_max": split.gold_max, "seed": split.seed}
