"""What the tuned model scores on the gold set and on general text: the same questions, the same decoding as the baselines."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from planish.data.task import filled
from planish.engines.transformers import TransformersEngine
from planish.events import EventType
from planish.evidence.pair_accuracy import pair_accuracy
from planish.model import bundled
from planish.model.chat import Chat
from planish.model.general import evaluate
from planish.model.head_engine import HeadEngine, has_head, rates
from planish.model.load import load
from planish.model.trained import open_trained
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages._asking import asker_of, asking_options, base_pairs, format_for
from planish.stages._context import Context, Inputs, read_json, write_json, write_report
from planish.stages._general import general_options, general_rows
from planish.stages._gold import Gold, read_gold
from planish.stages._losses import write_memorised, write_slices
from planish.stages._scoring import BasePairs, judge, primary, require_references
from planish.stages._screening import asked, ruled_out, screening
from planish.stages._stage_report import write_stages

NEEDS = ("prepare", "train")


def options(recipe: Recipe) -> dict[str, Any]:
    """The scorers, the general suites, and the base that the adapter stands on."""
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    return {**asking_options(recipe.evaluate), **general_options(recipe), "model": bundled.identity(folder), "name": candidate_name(recipe)}


def candidate_name(recipe: Recipe) -> str:
    """What the tuned model is called in tables: its adapter. A recipe without training is of a model as it is."""
    return recipe.train[-1].adapter.name if recipe.train else "model"


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`reports/<candidate>.json`, `general.json`, `slices.json` and `memorised.json`; `unconstrained.json` where decoding was constrained,
    `reward.json` of a reward model."""
    gold = read_gold(context.store, context.run_id, context.stage, inputs["prepare"])
    recipe = filled(context.recipe, gold.task.shape)
    context = replace(context, recipe=recipe)
    require_references(gold, recipe.evaluate.scorers)
    where = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    precision = format_for(gold.task.shape, recipe.train[-1].precision)
    base = base_pairs(where, gold, recipe.evaluate.scorers, precision)
    tuned = open_tuned(recipe, inputs["train"], gold.task.shape)
    report = score_gold(context, tuned, gold, base)
    write_report(folder, report)
    if recipe.evaluate.decoding.constraint is not None:
        write_json(folder / "unconstrained.json", _unconstrained(context, tuned, gold, base).model_dump(mode="json"))
    write_slices(gold, inputs["prepare"], report, folder)
    if rates(tuned.model):
        _write_reward(context, report, folder)
    trained = partial(score_gold, context, tuned, what="training rows")
    write_memorised(gold, inputs["prepare"], report, primary(recipe.evaluate.scorers), trained, folder, context.progress)
    context.event(EventType.EVAL_SCORED, {name: round(metric.value, 4) for name, metric in report.metrics.items()})
    rows = general_rows(recipe)
    if rows or recipe.evaluate.general_tasks:
        with context.progress.bar("general ability, tuned", len(rows)) as advance:
            kept = evaluate(tuned.model, tuned.chat, rows, candidate_name(recipe), tuned.precision, advance, tasks=recipe.evaluate.general_tasks)
        write_json(folder / "general.json", kept.model_dump(mode="json"))
    plain = replace(context, recipe=recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"screen": None})}))
    write_stages(
        recipe,
        inputs["train"],
        report,
        lambda place: _opened(where, place, tuned),
        lambda opened, name: score_gold(plain, Tuned(*opened), gold, base, what=f"gold set, {name}"),
        folder,
    )


def _unconstrained(context: Context, tuned: Tuned, gold: Gold, base: BasePairs | None) -> EvalReport:
    """The same questions without the constraint: what the model knows of the form, and what the mask holds for it (MISSION E3)."""
    told = context.recipe.evaluate
    free = told.model_copy(update={"screen": None, "decoding": told.decoding.model_copy(update={"constraint": None})})
    plain = replace(context, recipe=context.recipe.model_copy(update={"evaluate": free}))
    return score_gold(plain, tuned, gold, base, what="gold set, unconstrained").model_copy(
        update={"system": f"{candidate_name(context.recipe)}, unconstrained"}
    )


def _write_reward(context: Context, report: EvalReport, folder: Path) -> None:
    """`reward.json`: whether the reward may be used, its accuracy, its calibration, and whether it counts words; by slice it is in slices.json (MISSION P4)."""
    rated = [score for score in report.scores if "probability" in score.detail]
    if not rated:
        return
    differences, longer = ([score.detail[key] for score in rated] for key in ("margin", "longer"))
    found = pair_accuracy(differences, longer)
    low, high = found.all.interval
    said = (
        f"reward: {found.all.value:.3f} [{low:.3f}, {high:.3f}] of {found.all.n} held-out pairs in the right order, calibration error {found.calibration:.3f}"
    )
    if found.length_correlation is not None:
        said += f", {found.length_correlation:+.2f} with length"
    context.progress.say(f"  {said}" + ("" if found.usable else "; the interval reaches .5: it CANNOT BE USED"))
    write_json(
        folder / "reward.json",
        {
            "usable": found.usable,
            "accuracy": {"value": found.all.value, "low": low, "high": high, "n": found.all.n},
            "calibration": found.calibration,
            "length_correlation": found.length_correlation,
        },
    )


class Tuned(NamedTuple):
    """A tuned model, ready to be asked."""

    model: Any
    chat: Chat
    precision: Literal["fp32", "bf16"]


def open_tuned(recipe: Recipe, trained: Path, shape: str) -> Tuned:
    """The base model with what training made of it, in the number format in which rows of this task shape are answered."""
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    precision = format_for(shape, recipe.train[-1].precision)
    return Tuned(open_trained(base, trained, precision, four_bit=recipe.train[-1].four_bit), Chat.load(base), precision)


def _opened(base: Path, result: Path | None, like: Tuned) -> Tuned:
    """What an entry left, or the base itself, in the precision of the candidate."""
    if result is None:
        return Tuned(load(base, like.precision), like.chat, like.precision)
    four_bit = bool(read_json(result / "report.json")["section"]["four_bit"])
    return Tuned(open_trained(base, result, like.precision, four_bit=four_bit), like.chat, like.precision)


def score_gold(context: Context, tuned: Tuned, gold: Gold, base: BasePairs | None = None, *, what: str = "gold set") -> EvalReport:
    """Its answers to a gold set, scored by the recipe's scorers; `base` is what its base says of the pairs, where one of them reads that."""
    scorers = context.recipe.evaluate.scorers
    engine = (HeadEngine if has_head(tuned.model) else TransformersEngine)(tuned.model, tuned.chat, tuned.precision)
    began = time.perf_counter()
    with context.progress.bar(f"{what}, tuned", len(gold.samples)) as advance:
        asker = replace(asker_of(engine, tuned.model, tuned.chat, tuned.precision, context.recipe.evaluate), advance=advance)
        asker = screening(asker, gold, context.recipe.evaluate)
        seen, answers, found = asked(asker, gold, asker.answer(gold.samples, gold.task))
    seconds, told = time.perf_counter() - began, context.recipe.evaluate.decoding
    return ruled_out(judge(candidate_name(context.recipe), answers, seen, scorers, seconds, base, told).report, found)
