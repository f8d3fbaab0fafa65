"""The forgetting guard of a run: its gain and its general ability judged together, and what to change in this very recipe (MISSION C4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from planish import shelf
from planish.evidence import forgetting
from planish.evidence.facts import best
from planish.evidence.forgetting import Trained
from planish.evidence.paired import compare
from planish.model import bundled
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages._context import Context, Inputs, read_json, write_json

ASKED_PLAINLY = "prompt"


def write_forgetting(
    context: Context,
    inputs: Inputs,
    folder: Path,
    candidate: EvalReport,
    baselines: Sequence[EvalReport],
    metric: str,
    general: Sequence[EvalReport],
    groups: Mapping[str, str] | None = None,
) -> None:
    """`forgetting.json`: the candidate against the base model asked plainly (where that was scored; else the best baseline), and on the general suites.

    `general` are the candidate's report and the base's; nothing is written where either is missing.
    """
    rivals = [report for report in baselines if metric in report.metrics]
    if len(general) != 2 or not rivals:
        return
    tuned, base = general
    rival = next((report for report in rivals if report.system == ASKED_PLAINLY), None) or best(rivals, metric)
    task = compare(candidate, rival, metric, groups=groups)
    if not candidate.metrics[metric].higher_is_better:
        task = task.model_copy(update={"difference": -task.difference, "low": -task.high, "high": -task.low})
    start = bundled.locate(context.recipe.model, context.recipe.source.parent if context.recipe.source else None)
    made = next((path for name in ("adapter", "model") if (path := inputs["train"] / name).is_dir()), inputs["train"])
    remedies = forgetting.remedies(trained_as(context.recipe, inputs["train"]), str(start), str(made))
    found = forgetting.judge(task, base, tuned, remedies=remedies)
    write_json(folder / "forgetting.json", found.model_dump(mode="json"))
    context.progress.say(f"  {found.sentence}")


def trained_as(recipe: Recipe, folder: Path) -> Trained:
    """What the last entry ran with, from its report; its length from the key that set it, else one epoch."""
    report, section = read_json(folder / "report.json"), recipe.train[-1]
    plan = report["plan"]
    length: Literal["epochs", "max_steps", "max_tokens"] = (
        "max_steps" if section.max_steps is not None else "max_tokens" if section.max_tokens is not None else "epochs"
    )
    return Trained(
        where=f"train[{len(recipe.train) - 1}]",
        adapter=section.adapter.name,
        options=shelf.find("adapters", section.adapter.name).options(section.adapter.options),
        learning_rate=plan["learning_rate"],
        steps=plan["steps"],
        epochs=plan["steps"] / -(-plan["rows"] // plan["batch_size"]),
        length=length,
        limit=getattr(section, length) or 1.0,
        replay=section.replay.share if section.replay is not None else 0.0,
    )
