"""Training: rows and a recipe in, an adapter or weights out. It is handed training and validation rows; the gold set is not within its reach."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from planish import shelf
from planish.data import dataset
from planish.data.task import Task
from planish.errors import InputError, Problem, RunFailed
from planish.events import EventType
from planish.model import bundled, loop
from planish.model import precision as number_format
from planish.model.chat import Chat, Refused
from planish.model.checkpoint import Position, trainable
from planish.model.example import Example
from planish.model.load import load
from planish.model.trained import changed, save
from planish.recipe import Recipe, TrainSection
from planish.rows import ChatRow, Message, Row
from planish.stages._context import Context, Inputs, write_json
from planish.store import Store

NEEDS = ("prepare",)
T = TypeVar("T")
VALIDATION_ROWS = 128
"""Validation during training is a sample of this size: it steers, it proves nothing."""


def options(recipe: Recipe) -> dict[str, Any]:
    """The train list and the base model by its weights."""
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    return {"train": [entry.model_dump() for entry in recipe.train], "model": bundled.identity(folder)}


def preflight(recipe: Recipe, store: Store) -> None:
    """What the recipe may say and this version cannot do yet is refused before anything runs."""
    if len(recipe.train) > 1:
        raise InputError(Problem("train", f"{len(recipe.train)} entries: several training stages in one recipe are not built yet", "keep one entry"))


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`adapter/` in PEFT's layout (or `model/` with all weights), `metrics.jsonl` and `report.json`. Goes on from the newest checkpoint of this very run."""
    recipe = context.recipe
    data = dataset.read(inputs["prepare"])
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    _tune(context, recipe.train[0], list(data.rows("train")), list(data.rows("validation")), data.task, base, folder, inputs["prepare"].name)


def _tune(
    context: Context, section: TrainSection, rows: Sequence[Row], validation: Sequence[Row], task: Task, base: Path, folder: Path, dataset_hash: str
) -> None:
    chat = Chat.load(base)
    examples, refused = _encode(section, rows, task, chat)
    checks, _ = _encode(section, _drawn(validation, VALIDATION_ROWS, section.seed), task, chat)
    if section.max_rows is not None:
        examples = _drawn(examples, section.max_rows, section.seed)
    if len(examples) < section.batch_size:
        why = f"{len(examples)} training rows are fewer than one batch of {section.batch_size} ({len(refused)} were refused)"
        raise InputError(Problem("train.batch_size", why, "lower batch_size or bring more rows"))
    precision = number_format.choose(section.precision)
    torch.manual_seed(section.seed)
    adapter = shelf.find("adapters", section.adapter.name).load()
    model = shelf.call("adapters", section.adapter.name, "attach", section.adapter.options)(load(base, precision, trained=section.adapter.name == "full"))
    start = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
    plan = _plan(section, len(examples), section.learning_rate or adapter.LEARNING_RATE, precision)
    total, own = sum(p.numel() for p in model.parameters()), sum(p.numel() for p in trainable(model).values())
    context.event(EventType.TRAIN_PLANNED, {"plan": asdict(plan), "trainable": own, "parameters": total, "refused": len(refused)})
    context.progress.say(f"  {plan.steps} steps over {plan.rows} rows, {own:,} of {total:,} parameters trained ({own / total:.2%}), {precision}")
    meaning = {"base": bundled.identity(base), "data": dataset_hash, "section": section.model_dump(mode="json")}
    with context.progress.bar("training", plan.steps) as advance:

        def started(position: Position) -> None:
            if position.step:
                context.event(EventType.TRAIN_RESUMED, {"step": position.step})
                context.progress.say(f"  going on after step {position.step}")
                advance(position.step)

        loss = shelf.call("objectives", section.objective.name, "loss", section.objective.options)
        position = loop.train(
            model,
            examples,
            loss,
            plan,
            context.work,
            meaning=meaning,
            validation=checks,
            on_start=started,
            on_step=lambda _: advance(1),
            on_checkpoint=lambda path, at: context.event(EventType.TRAIN_CHECKPOINT, {"step": at.step, "folder": path.name}),
        )
    moved = changed(model, start)
    if moved == 0:
        raise RunFailed(
            Problem("train", "no trained weight changed: the adapter does nothing", "raise learning_rate or steps, and look at the gradient norms"),
            reason_code="adapter_did_nothing",
        )
    save(model, chat, folder, base)
    (folder / "metrics.jsonl").write_bytes((context.work / "metrics.jsonl").read_bytes())
    write_json(
        folder / "report.json",
        {
            "plan": asdict(plan),
            "objective": section.objective.model_dump(),
            "adapter": section.adapter.model_dump(),
            "base": bundled.identity(base),
            "template": chat.template_hash,
            "trainable": own,
            "parameters": total,
            "tokens_computed": position.tokens,
            "tokens_in": sum(example.tokens for example in examples),
            "best_validation": position.best,
            "best_step": position.best_step,
            "weight_change": moved,
            "rows": len(examples),
            "refused": refused,
        },
    )


def _plan(section: TrainSection, rows: int, rate: float, precision: Literal["fp32", "bf16"]) -> loop.Plan:
    """The plan of this section over `rows` rows."""
    given = section.model_dump(include={"batch_size", "epochs", "max_steps", "warmup", "validations", "checkpoints", "micro_tokens", "schedule"})
    more = section.model_dump(include={"weight_decay", "clip", "seed"})
    return loop.make_plan(rows, **given, **more, learning_rate=rate, precision=precision)


def _drawn(items: Sequence[T], count: int, seed: int) -> list[T]:
    """At most `count` of the items, drawn over all of them: the first rows of a file are often of one kind."""
    return list(items) if len(items) <= count else random.Random(seed).sample(list(items), count)


def as_chat(row: Row, task: Task) -> ChatRow:
    """A row as the conversation it is trained as: the very prompt that evaluation and serving send, and the right answer."""
    asked = task.asked(row)
    return ChatRow(id=row.id, origin=row.origin, messages=(*asked.messages, Message(role="assistant", content=asked.target)))


def _encode(section: TrainSection, rows: Sequence[Row], task: Task, chat: Chat) -> tuple[list[Example], list[dict[str, str]]]:
    """Rows as the objective's examples; those it refuses are kept with their reason, never dropped in silence."""
    encode = shelf.call("objectives", section.objective.name, "encode", section.objective.options)
    examples: list[Example] = []
    refused: list[dict[str, str]] = []
    for row in rows:
        try:
            example: Example = encode(as_chat(row, task), chat)
        except Refused as why:
            refused.append({"row": row.id, "code": why.code, "why": why.why})
            continue
        longest = max(len(sequence.ids) for sequence in example.sequences)
        if section.max_length is not None and longest > section.max_length:
            refused.append({"row": row.id, "code": "too_long", "why": f"{longest} tokens, max_length is {section.max_length}; an answer is never cut"})
        else:
            examples.append(example)
    return examples, refused
