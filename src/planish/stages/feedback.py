"""The loop closes: corrected answers of logged requests become the next dataset version, and the next recipe names this run as its parent (MISSION L5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish.data import dataset
from planish.data.request_log import read_corrections, read_log
from planish.events import EventType
from planish.recipe import Recipe
from planish.stages._context import Context, Inputs, read_json, write_json
from planish.stages._deployment import open_deployment
from planish.store.objects import file_hash

NEEDS = ("prepare", "serve")


def options(recipe: Recipe) -> dict[str, Any]:
    """The budget, and the corrections by content."""
    assert recipe.feedback is not None
    path = recipe.resolve(recipe.feedback.corrections) if recipe.feedback.corrections else None
    return {"feedback": recipe.feedback.model_dump(mode="json"), "corrections": file_hash(path) if path is not None and path.is_file() else None}


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`dataset/`, `next_recipe.yaml`, and `feedback.json` with what was taken, what was refused and why."""
    recipe = context.recipe
    assert recipe.feedback is not None
    deployment = open_deployment(Path(read_json(inputs["serve"] / "deployment.json")["folder"]))
    records, torn = read_log(deployment.log)
    posted, _ = read_corrections(deployment.log)
    path = recipe.resolve(recipe.feedback.corrections) if recipe.feedback.corrections else None
    given = read_corrections(path)[0] if path is not None and path.is_file() else []
    data = dataset.read(inputs["prepare"])
    result = dataset.next_version(data, records, [*posted, *given], folder / "dataset", limit=recipe.feedback.rows_per_day)
    write_json(folder / "feedback.json", {"requests": len(records), "torn_lines": torn, "corrections": len(posted) + len(given), **result})
    _next_recipe(recipe, context.run_id, folder)
    context.event(EventType.FEEDBACK_CONVERTED, {"requests": len(records), **{name: value for name, value in result.items() if isinstance(value, int)}})


def _next_recipe(recipe: Recipe, run_id: str, folder: Path) -> None:
    """The same recipe over the new rows, with this run as its parent."""
    from ruamel.yaml import YAML

    plain = recipe.model_dump(mode="json", exclude_defaults=True) | {"recipe": 1, "parent": run_id}
    plain["data"] = recipe.data.model_dump(mode="json", exclude_defaults=True) | {"path": "dataset/rows.jsonl"}
    with (folder / "next_recipe.yaml").open("w", encoding="utf-8") as out:
        YAML().dump(_short(plain), out)


def _short(value: Any) -> Any:
    """Techniques in their short form: a name, or one name with its options."""
    if isinstance(value, dict) and "name" in value and set(value) <= {"name", "options"}:
        return {value["name"]: _short(value["options"])} if value.get("options") else value["name"]
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value
