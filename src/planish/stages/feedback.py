"""The loop closes: corrected answers of logged requests become the next dataset version, and the next recipe names this run as its parent (MISSION L5)."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from planish.data import dataset, gold
from planish.data.request_log import Correction, LogRecord, read_corrections, read_log
from planish.data.table import Table
from planish.data.task import Task
from planish.events import EventType
from planish.recipe import Recipe
from planish.recipe_yaml import as_yaml, plain
from planish.rows import Message
from planish.stages._context import Context, Inputs, read_json, write_json
from planish.stages._deployment import open_deployment
from planish.store.objects import file_hash

NEEDS = ("prepare", "serve")


def options(recipe: Recipe) -> dict[str, Any]:
    """The budget, and the corrections by content."""
    assert recipe.feedback is not None
    path = recipe.resolve(recipe.feedback.corrections) if recipe.feedback.corrections else None
    return {"feedback": recipe.feedback.model_dump(mode="json"), "corrections": file_hash(path) if path is not None and path.is_file() else None}


def still_true(context: Context, folder: Path) -> bool:
    """Corrections posted to the endpoint since then make the stage run again."""
    known = read_json(folder / "feedback.json")
    return bool(known["posted"] == len(read_corrections(Path(known["log"]))[0])) if Path(known["log"]).is_file() else True


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`dataset/` (the next version), `next_recipe.yaml`, and `feedback.json` with what was taken, what was refused and why."""
    recipe = context.recipe
    assert recipe.feedback is not None
    log = open_deployment(Path(read_json(inputs["serve"] / "deployment.json")["folder"])).log
    records = {record.id: record for record in read_log(log)[0]}
    posted = read_corrections(log)[0]
    path = recipe.resolve(recipe.feedback.corrections) if recipe.feedback.corrections else None
    given, unread = read_corrections(path) if path is not None and path.is_file() else ([], 0)
    data = dataset.read(inputs["prepare"])
    taken, refused = _matched([*posted, *given], records, data.task, recipe.feedback.rows_per_day)
    grown = dataset.feedback_version(data, taken)
    _write_next(data, grown, folder / "dataset")
    summary: dict[str, Any] = {
        "log": str(log),
        "requests": len(records),
        "with_text": sum(record.content is not None for record in records.values()),
        "posted": len(posted),
        "unread_lines": unread,
        "corrections": len(posted) + len(given),
        "rows_added": len(grown.rows),
        "added": [{"row": row.id, "split": grown.assignment[row.id], "log_id": row.extra.get("log_id")} for row in grown.rows],
        "refused": [*refused, *({"log_id": row.row_id, "code": row.code.value, "why": row.why} for row in grown.rejected)],
    }
    write_json(folder / "feedback.json", summary)
    _next_recipe(recipe, context.run_id, folder)
    context.event(EventType.FEEDBACK_CONVERTED, {name: value for name, value in summary.items() if isinstance(value, int)})
    context.progress.say(f"  {summary['corrections']} corrections: {len(grown.rows)} rows added, {len(summary['refused'])} refused")


def _matched(corrections: list[Correction], records: dict[str, LogRecord], task: Task, limit: int) -> tuple[list[dataset.Correction], list[dict[str, Any]]]:
    """Corrections with the text that was asked, as it stands redacted in the log; those that cannot be matched are refused with the reason."""
    taken: list[dataset.Correction] = []
    refused: list[dict[str, Any]] = []
    for correction in corrections:
        record = records.get(correction.log_id)
        if record is None or record.content is None or "messages" not in record.content:
            why = "no request of this endpoint has this id" if record is None else "the text of this request was not kept"
            refused.append({"log_id": correction.log_id, "code": "not_logged", "why": why})
        elif len(taken) == limit:
            refused.append({"log_id": correction.log_id, "code": "over_budget", "why": f"more than rows_per_day ({limit})"})
        else:
            asked = tuple(Message.model_validate(turn) for turn in record.content["messages"])
            made = dataset.Correction(
                log_id=correction.log_id,
                text=task.text_of(asked[-1].content),
                corrected=correction.corrected,
                messages=asked,
                tools=tuple(record.content.get("tools", ())),
                served=record.content.get("answer", ""),
            )
            taken.append(made)
    return taken, refused


def _write_next(data: dataset.Dataset, grown: dataset.Feedback, folder: Path) -> None:
    """Every stored row in its stored split, and the new rows in theirs; the gold set is a new version when it grew."""
    rows = Table.of(chain(dataset.every_row(data), grown.rows))
    placed = dataset.assignment(data) | grown.assignment
    version = data.manifest.version + 1
    sealed = gold.build((row for row in rows if placed[row.id] == "gold"), data.task, version=version)
    rejected, often = [*dataset.rejected_rows(data), *grown.rejected], dataset.frequencies(data)
    dataset.write(folder, rows, rejected, placed, sealed, data.task, often=often, version=version, parents=[data.sha256])


def _next_recipe(recipe: Recipe, run_id: str, folder: Path) -> None:
    """The same recipe over the new rows, with this run as its parent."""
    given = plain(recipe) | {"parent": run_id}
    if (own := recipe.resolve(Path(recipe.model))).is_dir():
        given["model"] = str(own.resolve())  # a folder beside the old recipe is not beside the new one
    given["data"] = {key: item for key, item in given["data"].items() if key != "gold"} | {"path": "dataset"}  # which has its gold rows and its split
    given["data"].get("split", {}).pop("keep", None)
    (folder / "next_recipe.yaml").write_text(as_yaml(given), encoding="utf-8")
