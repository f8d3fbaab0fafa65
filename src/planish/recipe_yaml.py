"""A recipe as YAML again: what differs from the defaults, techniques in their short form."""

from __future__ import annotations

import io
from typing import Any

from planish.recipe import Recipe


def plain(recipe: Recipe) -> dict[str, Any]:
    """The keys that were given or differ from their defaults, ready for YAML or JSON; `Recipe.model_validate` reads it back."""
    shortened: dict[str, Any] = _short(recipe.model_dump(mode="json", exclude_defaults=True))
    return {"recipe": 1, **shortened}


def as_yaml(given: Recipe | dict[str, Any]) -> str:
    """The text of a recipe file."""
    from ruamel.yaml import YAML

    out = io.StringIO()
    YAML().dump(plain(given) if isinstance(given, Recipe) else given, out)
    return out.getvalue()


def _short(value: Any) -> Any:
    """Techniques by name, or as one name with its options."""
    if isinstance(value, dict) and "name" in value and set(value) <= {"name", "options"}:
        return {value["name"]: _short(value["options"])} if value.get("options") else value["name"]
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value
