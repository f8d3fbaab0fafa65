"""The blind half of a gold set, spent once: the last look at a finished choice, on rows that no decision has seen (MISSION D10)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from planish.data import dataset, gold
from planish.data.task import filled
from planish.engines import transformers
from planish.errors import InputError, Problem
from planish.events import EventType
from planish.evidence.facts import best
from planish.evidence.paired import compare
from planish.model import bundled
from planish.progress import Progress
from planish.recipe import Recipe
from planish.rows import Noun
from planish.scores import Comparison, EvalReport
from planish.stages._asking import asker_of, base_pairs, format_for
from planish.stages._context import Context, read_reports
from planish.stages._gold import read_gold
from planish.stages._scoring import primary
from planish.stages.baseline import solve_one
from planish.stages.evaluate import open_tuned, score_gold
from planish.store import Store


class Spent(Noun):
    """What the blind rows say: the tuned model, the baseline it was measured against, and the paired difference."""

    candidate: EvalReport
    baseline: EvalReport
    comparison: Comparison


def spend(recipe: Recipe, workspace: Path, progress: Progress) -> Spent:
    """Score the tuned model of this recipe's newest gated run, and its best baseline, on the blind half. An event remembers it: there is no second time.

    Raises InputError where no such run exists, where nothing was kept blind, and where it is spent already.
    """
    store = Store(workspace)
    run_id, folders = _gated(store, recipe)
    data = dataset.read(folders["prepare"])
    if not data.blind_path.is_file():
        raise InputError(Problem("data.split.blind", "no part of this gold set was kept blind", "set data.split.blind: 0.5 before the first run"))
    sealed = gold.read(data.blind_path)
    spent = [event for event in store.events() if event.type == EventType.GOLD_SPENT and event.body["sha256"] == sealed.sha256]
    if spent:
        why = f"this blind half was spent on {spent[0].ts[:19]} by {spent[0].run_id}: a second look would choose by it"
        raise InputError(Problem("gold spend", why, "draw a new gold set from new rows"))
    store.event(run_id, EventType.GOLD_SPENT, "gate", {"sha256": sealed.sha256, "rows": len(sealed.samples)})
    context = Context(recipe, store, run_id, "gate", store.work(sealed.sha256), progress)
    held = read_gold(context.store, context.run_id, context.stage, folders["prepare"], blind=True)
    recipe = filled(recipe, held.task.shape)
    context = replace(context, recipe=recipe)
    scorers = recipe.evaluate.scorers
    metric = primary(scorers)
    named = best([report for report in read_reports(folders["baseline"]).values() if metric in report.metrics], metric).system
    use = next(use for use in recipe.baseline if use.name == named)
    where = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    tuned = open_tuned(recipe, folders["train"], held.task.shape)
    candidate = score_gold(context, tuned, held, base_pairs(where, held, scorers, tuned.precision))
    engine = transformers.start(where, precision=format_for(held.task.shape))
    asker = asker_of(engine, engine.model, engine.chat, engine.precision, recipe.evaluate)
    baseline = solve_one(use, context, held, data, asker, context.work, base_pairs(where, held, scorers, engine.precision))
    engine.close()
    comparison = compare(candidate, baseline, metric, groups=held.groups, labels=held.labels)
    return Spent(candidate=candidate, baseline=baseline, comparison=comparison)


def _gated(store: Store, recipe: Recipe) -> tuple[str, dict[str, Path]]:
    """The newest run of this very recipe that reached its gate, with its artifacts."""
    for row in store.runs():
        stages = store.stages(row["id"])
        if row["recipe_sha256"] == recipe.fingerprint and stages.get("gate", {}).get("artifact"):
            return row["id"], {name: store.path(stage["artifact"]) for name, stage in stages.items() if stage["artifact"]}
    raise InputError(Problem("gold spend", "no run of this recipe has reached its gate", "planish run RECIPE first"))
