"""What the tuned model scores on the gold set and on general text: the same questions, the same decoding as the baselines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from planish.data import general
from planish.engines.transformers import TransformersEngine
from planish.events import EventType
from planish.model import bundled
from planish.model import precision as number_format
from planish.model.asker import Asker
from planish.model.chat import Chat
from planish.model.general import evaluate
from planish.model.trained import open_trained
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages._context import Context, Inputs, write_json, write_report
from planish.stages._gold import Gold, read_gold
from planish.stages._scoring import judge

NEEDS = ("prepare", "train")
CHUNK = 64


def options(recipe: Recipe) -> dict[str, Any]:
    """The scorers, the general suites, and the base that the adapter stands on."""
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    scorers = [scorer.model_dump() for scorer in recipe.evaluate.scorers]
    return {"scorers": scorers, "general": recipe.evaluate.general, "model": bundled.identity(folder), "name": candidate_name(recipe)}


def candidate_name(recipe: Recipe) -> str:
    """What the tuned model is called in tables: its adapter."""
    return recipe.train[-1].adapter.name


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`reports/<candidate>.json` and `general.json`."""
    recipe = context.recipe
    tuned = open_tuned(recipe, inputs["train"])
    report = score_gold(context, tuned, read_gold(context.store, context.run_id, context.stage, inputs["prepare"]))
    write_report(folder, report)
    context.event(EventType.EVAL_SCORED, {name: round(metric.value, 4) for name, metric in report.metrics.items()})
    rows = general.rows(list(recipe.evaluate.general))
    if rows:
        with context.progress.bar("general ability, tuned", len(rows)) as advance:
            kept = evaluate(tuned.model, tuned.chat, rows, candidate_name(recipe), tuned.precision, advance)
        write_json(folder / "general.json", kept.model_dump(mode="json"))


class Tuned(NamedTuple):
    """A tuned model, ready to be asked."""

    model: Any
    chat: Chat
    precision: Literal["fp32", "bf16"]


def open_tuned(recipe: Recipe, trained: Path) -> Tuned:
    """The base model with what training made of it."""
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    precision = number_format.choose(recipe.train[-1].precision)
    return Tuned(open_trained(base, trained, precision, four_bit=recipe.train[-1].four_bit), Chat.load(base), precision)


def score_gold(context: Context, tuned: Tuned, gold: Gold) -> EvalReport:
    """Its answers to a gold set, scored."""
    asker = Asker(TransformersEngine(tuned.model, tuned.chat, tuned.precision), tuned.chat, tuned.model.config.max_position_embeddings)
    began = time.perf_counter()
    answers: list[str | None] = []
    with context.progress.bar("gold set, tuned", len(gold.samples)) as advance:
        for start in range(0, len(gold.samples), CHUNK):
            part = gold.samples[start : start + CHUNK]
            answers += asker.choose([sample.messages for sample in part], gold.labels)
            advance(len(part))
    return judge(candidate_name(context.recipe), answers, gold, context.recipe.evaluate.scorers, time.perf_counter() - began).report
