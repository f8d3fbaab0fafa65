"""How far cheaper means already get: every solver of the recipe answers the gold set, and the base model's general ability is measured, before any weight changes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from planish import shelf
from planish.data import dataset
from planish.data.task import filled
from planish.engines import transformers
from planish.errors import InputError, Problem
from planish.events import EventType
from planish.evidence.seeds import over_seeds
from planish.model import bundled
from planish.model.asker import Asker
from planish.model.general import evaluate
from planish.model.solved import Solved
from planish.progress import Advance
from planish.recipe import Recipe
from planish.recipe_keys import Use
from planish.rows import content_hash
from planish.scores import EvalReport
from planish.stages._asking import asker_of, asking_options, base_pairs, format_for
from planish.stages._context import Context, Inputs, write_json, write_report
from planish.stages._general import general_options, general_rows
from planish.stages._gold import Gold, read_gold
from planish.stages._scoring import BasePairs, Judged, judge, require_references
from planish.stages._screening import asked, ruled_out, screening
from planish.store.objects import file_hash

NEEDS = ("prepare",)
COST_ORDER = ("majority", "random", "copy_input", "empty", "prompt", "few_shot", "rag", "classifier")
"""Cheapest first to run and to undo; on a tie the cheaper is shipped (MISSION G2)."""


def options(recipe: Recipe) -> dict[str, Any]:
    """The solvers, the scorers, the base model by its weights, and the general suites."""
    model = bundled.identity(bundled.locate(recipe.model, recipe.source.parent if recipe.source else None))
    solvers = [solver.model_dump() | {"documents": _documents(recipe, solver)} for solver in recipe.baseline]
    return {"solvers": solvers, **asking_options(recipe.evaluate), **general_options(recipe), "model": model}


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`reports/<solver>.json` for each, `general.json` for the base, `classifier/` where one was fitted."""
    gold, data = read_gold(context.store, context.run_id, context.stage, inputs["prepare"]), dataset.read(inputs["prepare"])
    recipe = filled(context.recipe, gold.task.shape)
    context = replace(context, recipe=recipe)
    require_references(gold, recipe.evaluate.scorers)
    where = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    precision = format_for(gold.task.shape)
    base = base_pairs(where, gold, recipe.evaluate.scorers, precision)
    engine = transformers.start(where, precision=precision)
    asker = asker_of(engine, engine.model, engine.chat, engine.precision, recipe.evaluate)
    for use in recipe.baseline:
        report = solve_one(use, context, gold, data, asker, folder, base)
        write_report(folder, report)
        figures = {name: round(metric.value, 4) for name, metric in report.metrics.items()}
        context.event(EventType.BASELINE_SCORED, {"solver": use.name, "metrics": figures, "seconds": round(report.seconds, 2)})
    rows = general_rows(recipe)
    if rows or recipe.evaluate.general_tasks:
        engine.model.set_attn_implementation("planish_tree")
        with context.progress.bar("general ability, base", len(rows)) as advance:
            before = evaluate(engine.model, engine.chat, rows, "base", engine.precision, advance, tasks=recipe.evaluate.general_tasks)
        write_json(folder / "general.json", before.model_dump(mode="json"))
    engine.close()


def solve_one(use: Use, context: Context, gold: Gold, data: dataset.Dataset, asker: Asker, folder: Path, base: BasePairs | None) -> EvalReport:
    """One solver's report. One that draws its examples is asked once per seed; the report is the median seed's, with the mean and the range of all."""
    module = shelf.find("solvers", use.name).load()
    path = use.options.get("path")
    solve = shelf.call("solvers", use.name, "solve", use.options | ({"path": str(context.recipe.resolve(Path(path)))} if isinstance(path, str) else {}))
    train = list(data.rows("train"))
    tuning = {"validation": list(data.rows("validation"))} if hasattr(module, "SEARCHES") else {}
    first, seeds = int(use.options.get("seed", 0)), getattr(module, "SEEDS", 1)
    judged: list[Judged] = []
    with context.progress.bar(f"gold set, {use.name}", len(gold.samples) * seeds) as advance:
        for turn, seed in enumerate(range(first, first + seeds), start=1):
            began = time.perf_counter()
            more: dict[str, Any] = tuning | ({"seed": seed} if hasattr(module, "SEEDS") else {})
            if hasattr(module, "KEEPS"):
                more["keep"] = folder / use.name
            heard = Heard(advance)
            screened = screening(replace(asker, advance=heard), gold, context.recipe.evaluate)
            solved = solve(gold.samples, gold.texts, train, gold.task, screened, **more)
            said = solved if isinstance(solved, Solved) else Solved(solved)
            part, answers, found = asked(screened, gold, said.answers)
            asks = context.recipe.evaluate
            one = judge(use.name, answers, part, asks.scorers, time.perf_counter() - began, base, asks.decoding)
            if found is not None:  # one draw is enough to know that it is out of reach
                return ruled_out(one.report, found)
            judged.append(replace(one, report=_with(one.report, said)))
            advance(len(gold.samples) - heard.samples, f"draw {turn} of {seeds}" if seeds > 1 else "")
    primary = judged[0].primary
    judged.sort(key=lambda one: one.report.metrics[primary].value)
    middle = judged[len(judged) // 2].report
    if len(judged) == 1:
        return middle
    values = [one.report.metrics[primary].value for one in judged]
    seen = over_seeds(primary, values)
    told = f"{primary} of {len(values)} draws: {', '.join(f'{value:.3f}' for value in values)}; mean {seen.value:.3f}; the median is reported"
    metrics, details = middle.metrics | {seen.name: seen}, dict(middle.details) | {"seeds": told}
    return middle.model_copy(update={"metrics": metrics, "details": details, "seconds": sum(one.report.seconds for one in judged)})


def _with(report: EvalReport, said: Solved) -> EvalReport:
    """The report with what the solver says of itself."""
    bounds = {name: {"name": f"{report.system}.{name}", "lower": metric.low, "upper": metric.high} for name, metric in said.metrics.items()}
    own = {update["name"]: said.metrics[name].model_copy(update=update) for name, update in bounds.items()}
    return report.model_copy(update={"metrics": report.metrics | own, "details": dict(report.details) | dict(said.details)})


def _documents(recipe: Recipe, solver: Use) -> str | None:
    """What a solver looks answers up in, by content, so that other documents are another baseline."""
    path = solver.options.get("path")
    if not isinstance(path, str):
        return None
    found = recipe.resolve(Path(path))
    files = sorted(file for file in found.rglob("*") if file.is_file()) if found.is_dir() else [found]
    if not files or not files[0].is_file():
        raise InputError(
            Problem(f"baseline.{solver.name}.path: {path}", "there is no such file or folder", "give the path of the documents, relative to the recipe")
        )
    return content_hash([file_hash(file) for file in files])


class Heard:
    """Passes progress on and counts it: a solver that asks nobody is done all at once."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self.samples = advance, 0

    def __call__(self, samples: int) -> None:
        self.samples += samples
        self._advance(samples)
