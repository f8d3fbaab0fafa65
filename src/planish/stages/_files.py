"""Files that an objective's keys name: found from the recipe's folder, and part of what a run depends on by what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish import shelf
from planish.recipe import Recipe, TrainSection, Use


def placed(recipe: Recipe, section: TrainSection) -> TrainSection:
    """The entry with the paths of its objective made absolute. Objectives name such keys in FILES."""
    options = dict(section.objective.options)
    for key in getattr(shelf.find("objectives", section.objective.name).load(), "FILES", ()):
        if options.get(key):
            options[key] = str(recipe.resolve(Path(options[key])).absolute())
    return section.model_copy(update={"objective": Use(name=section.objective.name, options=options)})


def content(section: TrainSection) -> dict[str, Any]:
    """What stands in those files, as a hash; nothing for an objective that names none. Raises InputError where they are not there."""
    objective = shelf.find("objectives", section.objective.name).load()
    if not hasattr(objective, "content"):
        return {}
    return {"content": shelf.call("objectives", section.objective.name, "content", section.objective.options)()}
