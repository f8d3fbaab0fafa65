"""How far cheaper means already get: every solver of the recipe answers the gold set, and the base model's general ability is measured, before any weight changes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from planish import shelf
from planish.data import dataset, general
from planish.engines import transformers
from planish.events import EventType
from planish.model import bundled
from planish.model.asker import Asker
from planish.model.general import evaluate
from planish.recipe import Recipe, Use
from planish.rows import LabelRow
from planish.scores import EvalReport
from planish.stages._context import Context, Inputs, write_json, write_report
from planish.stages._gold import Gold, read_gold
from planish.stages._scoring import Judged, judge

NEEDS = ("prepare",)
COST_ORDER = ("majority", "prompt", "few_shot", "classifier")
"""Cheapest first to run and to undo; on a tie the cheaper is shipped (MISSION G2)."""


def options(recipe: Recipe) -> dict[str, Any]:
    """The solvers, the scorers, the base model by its weights, and the general suites."""
    model = bundled.identity(bundled.locate(recipe.model, recipe.source.parent if recipe.source else None))
    solvers = [solver.model_dump() for solver in recipe.baseline]
    return {"solvers": solvers, "scorers": [scorer.model_dump() for scorer in recipe.evaluate.scorers], "general": recipe.evaluate.general, "model": model}


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`reports/<solver>.json` for each, `general.json` for the base, `classifier/` where one was fitted."""
    recipe = context.recipe
    gold, data = read_gold(context.store, context.run_id, context.stage, inputs["prepare"]), dataset.read(inputs["prepare"])
    train = [row for row in data.rows("train") if isinstance(row, LabelRow)]
    engine = transformers.start(bundled.locate(recipe.model, recipe.source.parent if recipe.source else None))
    asker = Asker(engine, engine.chat, engine.model.config.max_position_embeddings)
    with context.progress.bar("baselines", len(recipe.baseline)) as advance:
        for use in recipe.baseline:
            report = solve_one(use, context, gold, train, asker, folder)
            write_report(folder, report)
            figures = {name: round(metric.value, 4) for name, metric in report.metrics.items()}
            context.event(EventType.BASELINE_SCORED, {"solver": use.name, "metrics": figures, "seconds": round(report.seconds, 2)})
            advance(1)
    rows = general.rows(list(recipe.evaluate.general))
    if rows:
        engine.model.set_attn_implementation("planish_tree")
        with context.progress.bar("general ability, base", len(rows)) as advance:
            base = evaluate(engine.model, engine.chat, rows, "base", engine.precision, advance)
        write_json(folder / "general.json", base.model_dump(mode="json"))
    engine.close()


def solve_one(use: Use, context: Context, gold: Gold, train: list[LabelRow], asker: Asker, folder: Path) -> EvalReport:
    """One solver's report. One that draws its examples is asked once per seed; the report is the median seed's and names them all."""
    module = shelf.find("solvers", use.name).load()
    solve = shelf.call("solvers", use.name, "solve", use.options)
    first = int(use.options.get("seed", 0))
    judged: list[Judged] = []
    for seed in range(first, first + getattr(module, "SEEDS", 1)):
        began = time.perf_counter()
        more: dict[str, Any] = {"seed": seed} if hasattr(module, "SEEDS") else {}
        if hasattr(module, "KEEPS"):
            more["keep"] = folder / use.name
        answers = solve(gold.samples, gold.texts, train, gold.task, asker, **more)
        judged.append(judge(use.name, answers, gold, context.recipe.evaluate.scorers, time.perf_counter() - began))
    primary = judged[0].primary
    judged.sort(key=lambda one: one.report.metrics[primary].value)
    middle = judged[len(judged) // 2].report
    if len(judged) == 1:
        return middle
    values = [one.report.metrics[primary].value for one in judged]
    seeds = (
        f"{primary} of {len(values)} draws: "
        + ", ".join(f"{value:.3f}" for value in values)
        + f"; mean {sum(values) / len(values):.3f}; the median is reported"
    )
    return middle.model_copy(update={"details": {"seeds": seeds}, "seconds": sum(one.report.seconds for one in judged)})
