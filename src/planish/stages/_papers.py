"""Model card, licence, lineage and hashes beside a file of the package (MISSION Z5)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from planish.model import bundled
from planish.model.exported import Exported
from planish.model.papers import Lineage, write_papers
from planish.scores import Metric
from planish.stages._context import Context

PACKAGES = ("planish", "torch", "transformers", "peft", "gguf", "xllamacpp", "onnx", "onnxruntime", "bitsandbytes")


def write(context: Context, made: Exported, entry: dict[str, Any], folder: Path) -> None:
    """What `entry` of the compress report says of the file `made`, beside it; `folder` is the package's."""
    recipe = context.recipe
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    name, revision = bundled.named(base)
    done = context.store.stages(context.run_id)
    lineage = Lineage(
        run=context.run_id,
        recipe_hash=recipe.fingerprint,
        base=name,
        revision=revision,
        base_hash=bundled.identity(base),
        made=entry["exporter"],
        stages={stage: row["artifact"] for stage, row in done.items() if row.get("artifact")},
        versions=_versions(),
        unproven=context.unproven or not entry["passed"],
    )
    measured = {key: str(Metric.model_validate(figure)) for key, figure in entry["figures"].items()}
    write_papers(folder / made.file, made, lineage, base, measured, task=recipe.data.task or "")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
