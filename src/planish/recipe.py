"""The recipe: one YAML file, strict keys, every error at once with its line, read without torch (MISSION X2)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from planish.errors import InputError, Problem
from planish.recipe_compress import CompressSection
from planish.recipe_data import DataSection
from planish.recipe_evaluate import EvaluateSection
from planish.recipe_file import parsed, plain
from planish.recipe_keys import Rule, Section, Solver
from planish.recipe_problems import problem_of, unknown_techniques
from planish.recipe_serve import FeedbackSection, ObserveSection, ServeSection
from planish.recipe_train import TrainSection
from planish.rows import content_hash


class Recipe(Section):
    """The whole line. `source` is the file it was read from; paths in it are relative to that file. Baselines, scorers and gate that it leaves out are its task's
    (`planish.data.task.filled`)."""

    recipe: Literal[1]
    model: str
    data: DataSection
    baseline: list[Solver] = []
    train: list[TrainSection] = []
    evaluate: EvaluateSection = EvaluateSection()
    gate: list[Rule] | None = None
    compress: CompressSection | None = None
    serve: ServeSection | None = None
    observe: ObserveSection | None = None
    feedback: FeedbackSection | None = None
    parent: str | None = None
    source: Annotated[Path | None, Field(exclude=True)] = None

    @staticmethod
    def load(path: str | Path) -> Recipe:
        """Read and check a recipe. Raises InputError with every problem, each with its file and line; nothing is run."""
        return read(Path(path))

    def resolve(self, path: Path) -> Path:
        """A path of the recipe, relative to the recipe's own folder; a hub data set's name stays as it is."""
        return path if path.is_absolute() or str(path).startswith("hub:") or self.source is None else self.source.parent / path

    @property
    def fingerprint(self) -> str:
        """sha256 of everything in the recipe, whatever its layout or comments."""
        return content_hash(self.model_dump(mode="json"))


def read(path: Path) -> Recipe:
    """The recipe in `path`; see Recipe.load."""
    tree = parsed(path)
    if not isinstance(tree, dict):
        raise InputError(Problem(f"{path}:1", "is not a recipe: its top level is no mapping of keys", "begin with: recipe: 1"))
    problems = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(plain(tree) | {"source": path})
    except ValidationError as refused:
        problems += [problem_of(path, tree, error, Recipe) for error in refused.errors()]
    problems += unknown_techniques(path, tree, Recipe, ())
    if problems or recipe is None:
        unique = list(dict.fromkeys(sorted(problems, key=lambda problem: (int(problem.where.rpartition(":")[2].split()[0]), problem.where, problem.why))))
        raise InputError(*unique)
    return recipe
