"""Rows as an objective's examples: tokenised once for the same rows, tokenizer, objective and code, and read back from then on (MISSION K6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import planish.data.task
import planish.model
from planish import shelf
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.example import Example
from planish.model.row_limit import row_limit
from planish.model.tokenise import How, build
from planish.recipe_train import TrainSection
from planish.rows import ChatRow, Row, RowBase, StepsRow, UnpairedRow, canonical_json, content_hash
from planish.stages import _files
from planish.store.objects import file_hash


def encode(section: TrainSection, rows: Sequence[Row], task: Task, base: Path, root: Path) -> tuple[list[tuple[str, Example]], list[dict[str, str]]]:
    """The examples of the rows with their ids, from the token store under `root`; rows that the objective refuses are kept with their reason, never dropped in silence.

    Raises InputError where the objective reads rows of another shape.
    """
    if not rows:
        return [], []
    objective = section.objective
    require_shape(objective.name, rows)
    meaning = {
        "objective": objective.name,
        "options": canonical_json(objective.options),
        "task": canonical_json(task.model_dump(mode="json")),
        "code": _code(objective.name),
        **_files.content(section),
    }
    how = How(
        base, max_length=row_limit(section, base), encode=partial(_example, objective.name, objective.options, task), meaning=tuple(sorted(meaning.items()))
    )
    store = build(rows, how, root)
    refused = [{"row": fault.row, "code": fault.code.value, "why": fault.why} for fault in store.faults]
    return [(row_id, store.example(place)) for place, row_id in enumerate(store.row_ids)], refused


def _example(objective: str, options: dict[str, Any], task: Task, row: Row, chat: Chat) -> Example:
    """One row by the objective's own encoding; a row that is not of its shape is made a dialogue first."""
    wanted = shelf.find("objectives", objective).load().ROW
    made: Example = _encoder(objective, canonical_json(options))(row if isinstance(row, wanted) else task.conversation(row), chat)
    return made


@cache
def _encoder(objective: str, options: str) -> Any:
    return shelf.call("objectives", objective, "encode", json.loads(options))


def require_shape(objective: str, rows: Sequence[Row]) -> None:
    """Raise InputError where an objective reads rows of its own shape and these are others; any row with a right answer can be made a dialogue, one that was judged bad not."""
    module = shelf.find("objectives", objective).load()
    wanted: type[RowBase] = module.ROW
    if wanted is ChatRow and not writes(module) and (bad := [row for row in rows if _judged_bad(row)]):
        why = f"would train {len(bad)} of {len(rows)} answers that were judged bad, or hold steps judged wrong; the first is {bad[0].id}"
        raise InputError(Problem(f"train.objective.{objective}", why, "leave those rows out, or train with kto: it learns from both kinds"))
    strange = [row for row in rows if not isinstance(row, wanted)]
    if strange and wanted is not ChatRow:
        shapes, shape = ", ".join(sorted({row.shape for row in strange})), wanted.model_fields["shape"].default
        why = f"reads {shape} rows; {len(strange)} of {len(rows)} are {shapes}, the first is {strange[0].id}"
        raise InputError(Problem(f"train.objective.{objective}", why, f"give {shape} rows, or choose an objective for {shapes} rows"))


def writes(module: Any) -> bool:
    """Whether an objective trains on other answers than those of the rows: the student's own, or a teacher's."""
    return hasattr(module, "rollout") or hasattr(module, "require_data")


def _judged_bad(row: Row) -> bool:
    return (isinstance(row, UnpairedRow) and not row.label) or (isinstance(row, StepsRow) and not all(row.labels))


@cache
def _code(objective: str) -> str:
    """The hash of the code that makes tokens: changed code makes them anew."""
    files = [*sorted(Path(planish.model.__path__[0]).glob("*.py")), Path(planish.data.task.__file__), shelf.find("objectives", objective).path]
    return content_hash([file_hash(file) for file in files])
