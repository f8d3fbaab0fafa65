"""Files and models that an objective's keys name: found from the recipe's folder, and part of what a run depends on by what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish import shelf
from planish.model import bundled
from planish.recipe import Recipe
from planish.recipe_keys import Use
from planish.recipe_train import TrainSection


def placed(recipe: Recipe, section: TrainSection) -> TrainSection:
    """The entry with the paths of its objective made absolute. Objectives name such keys in FILES, those of models in MODELS; an address stays as it is.

    Raises InputError for a model that is not there.
    """
    options = dict(section.objective.options)
    objective = shelf.find("objectives", section.objective.name).load()
    for key in getattr(objective, "FILES", ()):
        if options.get(key):
            options[key] = str(recipe.resolve(Path(options[key])).absolute())
    for key in getattr(objective, "MODELS", ()):
        if options.get(key) and "://" not in options[key]:
            options[key] = str(bundled.locate(options[key], recipe.source.parent if recipe.source else None).absolute())
    return section.model_copy(update={"objective": Use(name=section.objective.name, options=options)})


def content(section: TrainSection) -> dict[str, Any]:
    """What stands in those files, as a hash; nothing for an objective that names none. Raises InputError where they are not there."""
    objective = shelf.find("objectives", section.objective.name).load()
    if not hasattr(objective, "content"):
        return {}
    return {"content": shelf.call("objectives", section.objective.name, "content", section.objective.options)()}
