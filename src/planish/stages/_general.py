"""The general suites of a recipe, the same for the base and for the tuned model (MISSION C4)."""

from __future__ import annotations

from typing import Any

from planish.data import general
from planish.data.general import GeneralRow
from planish.errors import InputError, Problem
from planish.recipe import Recipe
from planish.store.objects import file_hash


def general_rows(recipe: Recipe) -> list[GeneralRow]:
    """The rows of every suite. Raises InputError where a suite's package or the user's file is missing, or a row of it is refused."""
    own = recipe.evaluate.general_rows
    return general.rows(recipe.evaluate.general, None if own is None else recipe.resolve(own))


def general_options(recipe: Recipe) -> dict[str, Any]:
    """What the suites' rows depend on; the user's file by its content. Raises InputError where it is missing."""
    own, suites = recipe.evaluate.general_rows, {"general": recipe.evaluate.general, "general_tasks": recipe.evaluate.general_tasks}
    if own is None:
        return suites
    path = recipe.resolve(own)
    if not path.is_file():
        raise InputError(Problem(f"evaluate.general_rows: {own}", "there is no such file", "give the path of rows, relative to the recipe"))
    return {**suites, "general_rows": file_hash(path)}
