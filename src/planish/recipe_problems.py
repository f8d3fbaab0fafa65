"""What is wrong with a recipe: unknown keys, techniques and options, each with its place in the file and what was likely meant (MISSION X2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from planish.errors import Problem, did_you_mean
from planish.recipe_compress import LIST, WORD
from planish.recipe_file import place, plain
from planish.recipe_keys import Section, Use
from planish.shelf import Technique, find, shelf


def problem_of(path: Path, tree: Any, error: Any, model: type[BaseModel]) -> Problem:
    """What pydantic refused of a `model`, in the words and at the place of the recipe."""
    loc = tuple(part for part in error["loc"] if part not in (WORD, LIST))
    where = place(path, tree, loc)
    if error["type"] == "extra_forbidden":
        return Problem(where, f'unknown key "{loc[-1]}"', did_you_mean(str(loc[-1]), _siblings(model, loc)))
    if error["type"] == "missing":
        return Problem(where, "is missing", f"add the key {loc[-1]}")
    why, _, fix = error["msg"].removeprefix("Value error, ").partition("\n")
    return Problem(where, why[0].lower() + why[1:], fix)


def _siblings(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where `loc` ends."""
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        inner = _section(model.model_fields[part].annotation) if part in model.model_fields else None
        model = inner or model
    return [name for name in model.model_fields if name != "source"]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The Section inside `X`, `X | None`, `list[X]` or `Annotated[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section) and annotation is not Use:
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section(part))), None)


def unknown_techniques(path: Path, tree: Any, model: type[BaseModel], loc: tuple[int | str, ...]) -> list[Problem]:
    """Every technique name and option that no shelf knows, whether or not the rest of the recipe is right."""
    problems: list[Problem] = []
    at = tree
    for part in loc:
        at = at[part]
    if not isinstance(at, dict):
        return problems
    for key, field in model.model_fields.items():
        if key not in at:
            continue
        value, where = at[key], (*loc, key)
        shelf_name = _shelf_of(field)
        items = [(where, value)] if not isinstance(value, list) else [((*where, index), item) for index, item in enumerate(value)]
        inner = _section(field.annotation)
        for item_loc, item in items:
            if shelf_name is not None:
                problems += _technique_problems(path, tree, item_loc, item, shelf_name)
            elif inner is not None:
                problems += unknown_techniques(path, tree, inner, item_loc)
    return problems


def _shelf_of(field: Any) -> str | None:
    if isinstance(field.json_schema_extra, dict) and "shelf" in field.json_schema_extra:
        return str(field.json_schema_extra["shelf"])
    for part in getattr(field.annotation, "__args__", ()):
        for extra in getattr(part, "__metadata__", ()):
            if isinstance(getattr(extra, "json_schema_extra", None), dict):
                return str(extra.json_schema_extra["shelf"])
    return None


def _instead(technique: Technique, key: str) -> str:
    return technique.refused.get(key) or did_you_mean(key, technique.keys)


def _technique_problems(path: Path, tree: Any, loc: tuple[int | str, ...], item: Any, shelf_name: str) -> list[Problem]:
    try:
        use = Use.model_validate(plain(item))
    except ValidationError:
        return []  # already reported by the recipe's own validation
    named = (*loc, use.name) if isinstance(item, dict) else loc
    if use.name not in shelf(shelf_name):
        where = place(path, tree, loc, line_of=named)
        return [Problem(where, f'unknown {shelf_name.rstrip("s")} "{use.name}"', did_you_mean(use.name, shelf(shelf_name)))]
    technique = find(shelf_name, use.name)
    try:
        technique.schema(**use.options)
    except ValidationError as refused:
        problems = []
        for error in refused.errors():
            inner = (*named, *error["loc"])
            where = place(path, tree, inner)
            if error["type"] == "extra_forbidden":
                problems.append(Problem(where, f'unknown key "{error["loc"][0]}" of {use.name}', _instead(technique, str(error["loc"][0]))))
            else:
                problems.append(Problem(where, error["msg"][0].lower() + error["msg"][1:], f"see: planish ls {shelf_name}"))
        return problems
    return []
