"""What the prepared rows say of an entry of the train list before a baseline has run: rows of another shape, of one kind alone, or beside another gold set than its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planish import shelf
from planish.data import dataset
from planish.data.dataset import Dataset
from planish.data.same_prompt import JUDGED
from planish.errors import InputError, Problem
from planish.recipe import Recipe
from planish.recipe_train import TrainSection
from planish.rows import ChatRow
from planish.stages import _files
from planish.stages._documents import reads_documents
from planish.stages._encoding import require_shape, writes


def refusals(recipe: Recipe, prepared: Path) -> list[Problem]:
    """Of every entry, all at once; training refuses the same."""
    data, found = dataset.read(prepared), list[Problem]()
    for index, entry in enumerate(recipe.train):
        section = _files.placed(recipe, entry)
        for look in (require_data, _require_rows):
            found += [Problem(one.where.replace("train", f"train[{index}]", 1), one.why, one.fix) for one in _refused(look, section, data)]
    return found


def require_data(section: TrainSection, data: Dataset) -> None:
    """An objective that brings rows of its own says whether they were kept apart from this very gold set, and are of the training rows."""
    if hasattr(shelf.find("objectives", section.objective.name).load(), "require_data"):
        shelf.call("objectives", section.objective.name, "require_data", section.objective.options)(
            data.manifest.gold_sha256, [row.id for row in data.rows("train")]
        )


def _require_rows(section: TrainSection, data: Dataset) -> None:
    """Rows are read where an objective asks for rows of its own shape alone; any other makes dialogues of them."""
    name, module = section.objective.name, shelf.find("objectives", section.objective.name).load()
    if reads_documents(section) or (module.ROW is ChatRow and (writes(module) or JUDGED.isdisjoint(data.task.kind.rows))):
        return
    if not (rows := list(data.rows("train"))):
        return
    require_shape(name, rows)
    if hasattr(module, "require_rows"):
        module.require_rows(rows)


def _refused(look: Callable[[TrainSection, Dataset], None], section: TrainSection, data: Dataset) -> tuple[Problem, ...]:
    try:
        look(section, data)
    except InputError as refused:
        return refused.problems
    return ()
