"""The rows of a file, a data set or a recipe as the dialogues they are trained as: what is looked at before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planish.data import dataset
from planish.data.reading import read_rows
from planish.data.table import Table
from planish.data.task import Task, infer, make, row_shape
from planish.errors import InputError, Problem, did_you_mean
from planish.recipe import Recipe
from planish.recipe_data import TaskShape
from planish.rows import ChatRow, RejectedRow


@dataclass(frozen=True)
class Dialogues:
    """The accepted rows as dialogues; what the contract refused is kept beside them."""

    table: Table
    rejected: tuple[RejectedRow, ...]

    def row(self, id: str) -> ChatRow:
        """One row by its id, or by its line where no id is that. Raises InputError with the nearest id."""
        for place, key in enumerate(self.table.keys):
            if key.id == id or (str(key.line) == id and id not in self.table.ids):
                found = self.table[place]
                assert isinstance(found, ChatRow)
                return found
        gone = next((row for row in self.rejected if id in (row.row_id, str(row.line))), None)
        if gone is not None:
            raise InputError(Problem(f"row {id}", f"was refused: {gone.code}: {gone.why}", gone.fix))
        raise InputError(Problem(f"row {id}", f"there is no such row among {len(self.table)}", did_you_mean(id, self.table.ids)))


def read(
    path: Path,
    task: TaskShape | None = None,
    labels: Sequence[str] | None = None,
    instruction: str | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    clean: Sequence[str] = (),
    mixed: bool = False,
) -> Dialogues:
    """The rows of a file or folder, or the training rows of a data set. Raises InputError where there are none, or where they ask nothing (documents)."""
    if (path / dataset.MANIFEST).is_file():
        stored = dataset.read(path)
        return Dialogues(_dialogues(Table.of(stored.rows("train")), stored.task), tuple(dataset.rejected_rows(stored)))
    shape: TaskShape | None = task or ("classification" if labels is not None else None)
    reading = read_rows(path, shape=row_shape(shape) if shape else None, labels=labels, mapping=mapping, clean=clean, mixed=mixed, strict=False)
    if not len(reading.accepted):
        why = f"none of its {reading.n_in} rows is right" if reading.n_in else "holds no rows"
        raise InputError(Problem(str(path), why, f"see what is wrong with them: planish check {path}"))
    chosen = shape or infer((key.shape for key in reading.accepted.keys), tools=False)
    return Dialogues(_dialogues(reading.accepted, make(chosen, reading.labels, instruction)), reading.rejected)


def of_recipe(recipe: Recipe) -> Dialogues:
    """The rows that a recipe trains on, before any split."""
    data = recipe.data
    path = recipe.resolve(data.path)
    return read(path, data.task, data.labels, data.instruction, mapping=data.mapping, clean=data.clean, mixed=data.mixed)


def _dialogues(rows: Table, task: Task) -> Table:
    if all(key.shape == "chat" for key in rows.keys):
        return rows
    return Table.of(task.conversation(row) for row in rows)
