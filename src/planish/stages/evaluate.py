"""What the tuned model scores on the gold set and on general text: the same questions, the same decoding as the baselines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

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
from planish.stages._context import Context, Inputs, write_json, write_report
from planish.stages._gold import read_gold
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
    gold = read_gold(inputs["prepare"])
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    precision = number_format.choose(recipe.train[-1].precision)
    model: Any = open_trained(base, inputs["train"], precision)
    chat = Chat.load(base)
    asker = Asker(TransformersEngine(model, chat, precision), chat, model.config.max_position_embeddings)
    began = time.perf_counter()
    answers: list[str | None] = []
    with context.progress.bar("gold set, tuned", len(gold.samples)) as advance:
        for start in range(0, len(gold.samples), CHUNK):
            part = gold.samples[start : start + CHUNK]
            answers += asker.choose([sample.messages for sample in part], gold.labels)
            advance(len(part))
    report = judge(candidate_name(recipe), answers, gold, recipe.evaluate.scorers, time.perf_counter() - began).report
    write_report(folder, report)
    context.event(EventType.EVAL_SCORED, {name: round(metric.value, 4) for name, metric in report.metrics.items()})
    rows = general.rows(list(recipe.evaluate.general))
    if rows:
        with context.progress.bar("general ability, tuned", len(rows)) as advance:
            tuned = evaluate(model, chat, rows, candidate_name(recipe), precision, advance)
        write_json(folder / "general.json", tuned.model_dump(mode="json"))
