"""What an objective brings beside the model that is trained: frozen models that its loss asks, and rows that the trained model writes itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from planish import shelf
from planish.errors import InputError, Problem
from planish.model.example import Example
from planish.model.rollout import Rollout, Student
from planish.recipe import Recipe
from planish.recipe_train import TrainSection
from planish.stages import _files


def refusals(section: TrainSection, base: Path) -> list[Problem]:
    """Why an objective cannot train the model of the folder `base`, where it has a word on it: a teacher of other tokens, ranks that would each write rows of their own."""
    name, options = section.objective.name, section.objective.options
    module, found = shelf.find("objectives", name).load(), list[Problem]()
    if hasattr(module, "refusals"):
        found += shelf.call("objectives", name, "refusals", options)(base)
    if hasattr(module, "rollout") and section.launch.ranks > 1:
        found.append(Problem("train.launch.ranks", f"{name} lets one process write and train, and {section.launch.ranks} ranks are asked for", "use 1"))
    return found


def refusals_of_entry(recipe: Recipe, index: int, base: Path) -> list[Problem]:
    """The same of an entry of the train list before anything runs; models that it names and that are not there are among them."""
    try:
        found = refusals(_files.placed(recipe, recipe.train[index]), base)
    except InputError as missing:
        found = [Problem(f"train.objective.{recipe.train[index].objective.name}: {one.where}", one.why, one.fix) for one in missing.problems]
    return [Problem(problem.where.replace("train", f"train[{index}]", 1), problem.why, problem.fix) for problem in found]


def grown(section: TrainSection, examples: list[Example]) -> list[Example]:
    """The rows as long as a rollout may make them; as they are where there is none."""
    name, options = section.objective.name, section.objective.options
    if not hasattr(shelf.find("objectives", name).load(), "grown"):
        return examples
    found: list[Example] = shelf.call("objectives", name, "grown", options)(examples)
    return found


def loss_with(section: TrainSection, student: Student, seed: int) -> tuple[Callable[..., Any], Rollout | None]:
    """The objective's loss with the frozen models that it asks, and its rollout, whose draws follow from the run's seed and the step. Raises InputError as `frozen` does."""
    name, options = section.objective.name, section.objective.options
    module = shelf.find("objectives", name).load()
    loss = shelf.call("objectives", name, "loss", options)
    if hasattr(module, "frozen"):
        loss = _asking(loss, shelf.call("objectives", name, "frozen", options)(student))
    if not hasattr(module, "rollout"):
        return loss, None
    roll = shelf.call("objectives", name, "rollout", options)
    return loss, lambda examples, step: roll(examples, student, (seed, step))


def _asking(loss: Callable[..., Any], others: Any) -> Callable[..., Any]:
    return lambda policy: loss(policy, others)
