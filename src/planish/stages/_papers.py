"""Model card, licence, lineage and hashes beside a file of the package (MISSION Z5)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from planish.data import dataset
from planish.model import bundled
from planish.model.exported import Exported
from planish.model.papers import Lineage, write_papers
from planish.scores import Metric
from planish.stages._context import Context

PACKAGES = ("planish", "torch", "transformers", "peft", "gguf", "xllamacpp", "onnx", "onnxruntime", "bitsandbytes")
UNITS = {"layers": "layers", "heads": "groups of heads of every layer", "channels": "channels of every layer"}
"""What a removal counts, in words."""


def write(context: Context, made: Exported, entry: dict[str, Any], folder: Path, story: dict[str, Any] | None = None) -> None:
    """What `entry` of the compress report says of the file `made`, beside it; `folder` is the package's, `story` that of a smaller or a merged model."""
    recipe = context.recipe
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    name, revision = bundled.named(base)
    done = context.store.stages(context.run_id)
    data = dataset.read(context.store.path(str(done["prepare"]["artifact"]))).manifest
    lineage = Lineage(
        run=context.run_id,
        recipe_hash=recipe.fingerprint,
        base=name,
        revision=revision,
        base_hash=bundled.identity(base),
        made=entry["exporter"],
        variant=told(story or {}),
        data=data.hashes | {"gold": data.gold_sha256},
        stages={stage: row["artifact"] for stage, row in done.items() if row.get("artifact")},
        versions=_versions(),
        unproven=context.unproven or not entry["passed"],
    )
    measured = {key: str(Metric.model_validate(figure)) for key, figure in entry["figures"].items()}
    write_papers(folder / made.file, made, lineage, base, measured, task=data.task.shape)


def told(story: dict[str, Any]) -> list[str]:
    """What a smaller or a merged model is, for whoever has its file alone; nothing of the tuned model itself."""
    if story.get("kind") == "merged":
        others = ", ".join(f"`{name}`" for name in story["parents"])
        return [f"The tuned model merged by {story['method']} with {others}. The licences of these hold too; they are not read here."]
    if story.get("kind") != "pruned":
        return []
    steps, by = story["steps"], story["by"]
    gone = {unit: sum(step["removal"][unit] for step in steps) for unit in UNITS}
    what = [f"{count} {UNITS[unit]} by {by}" for unit, count in gone.items() if count]
    kept = next((step["removal"]["vocabulary"] for step in steps if step["removal"]["vocabulary"] is not None), None)
    what += [] if kept is None else [f"all but {kept:,} tokens by how often they stand in the training rows"]
    before, after = steps[0]["before"], steps[-1]["after"]
    again = " Then trained again." if "recovery" in story or "unrecovered" in story else ""
    return [f"The tuned model cut down from {before:,} to {after:,} parameters; taken out: {', '.join(what)}.{again}"]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
