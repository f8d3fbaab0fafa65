"""What a run of the loop needs, made from one entry of the train list: rows read and encoded, the plan, the base with its adapter on its device."""

from __future__ import annotations

import random
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from planish import shelf
from planish.data import dataset
from planish.errors import InputError, Problem
from planish.model import bundled, trained
from planish.model import precision as number_format
from planish.model.chat import Chat
from planish.model.example import Example
from planish.model.load import load
from planish.model.plan import Plan, make_plan, steps_within
from planish.model.ranks import ALONE, Ranks
from planish.model.recompute import checkpoint_activations
from planish.model.reference import StartingModel
from planish.recipe import TrainSection
from planish.stages._encoding import encode
from planish.stages._replay import Mixed, mix
from planish.store.objects import file_hash

T = TypeVar("T")
VALIDATION_ROWS = 128
"""Validation during training is a sample of this size: it steers, it proves nothing."""


@dataclass(frozen=True)
class Job:
    """One entry with everything it depends on, as plain values: other processes are handed it as JSON. `start` is an adapter folder to go on from, `work` keeps the
    checkpoints, the result is written to `out`, and tokenised rows are kept under `tokens`. `memory` is what the report says of it: limit, predicted peak, and the `levers`
    that were pulled, as events."""

    section: dict[str, Any]
    base: str
    start: str | None
    dataset: str
    work: str
    out: str
    tokens: str
    memory: dict[str, Any] = field(default_factory=dict)
    replay: str | None = None  # the file of the rows to mix in


@dataclass(frozen=True)
class Rows:
    """Rows as examples, those to train on with their ids; `refused` ones are kept with their reason."""

    train: list[tuple[str, Example]]
    checks: list[Example]
    refused: list[dict[str, str]]
    replay: dict[str, Any] | None = None  # what share of the rows, and of the loss, is replayed


@dataclass(frozen=True)
class Ready:
    """Everything a run of the loop needs. `refused` rows are kept with their reason."""

    model: nn.Module
    chat: Chat
    examples: list[Example]
    checks: list[Example]
    names: list[str]
    refused: list[dict[str, str]]
    plan: Plan
    loss: Callable[..., Any]
    usual_rate: float
    device: str
    replay: dict[str, Any] | None = None


def read_rows(job: Job, ranks: Ranks = ALONE) -> Rows:
    """Rows read and encoded. Raises InputError when there are too few for one batch."""
    section, base = TrainSection.model_validate(job.section), Path(job.base)
    data = dataset.read(Path(job.dataset))
    tokens = Path(job.tokens) / (f"rank-{ranks.rank}" if ranks.world > 1 else "")
    encoded, refused = encode(section, list(data.rows("train")), data.task, base, tokens)
    checks, _ = encode(section, drawn(list(data.rows("validation")), VALIDATION_ROWS, section.seed), data.task, base, tokens)
    if section.max_rows is not None:
        encoded = drawn(encoded, section.max_rows, section.seed)
    if len(encoded) < section.batch_size:
        why = f"{len(encoded)} training rows are fewer than one batch of {section.batch_size} ({len(refused)} were refused)"
        raise InputError(Problem("train.batch_size", why, "lower batch_size or bring more rows"))
    mixed = mix(section, Path(job.replay), encoded, base, tokens) if job.replay is not None else Mixed([], [], None)
    return Rows([*encoded, *mixed.encoded], [example for _, example in checks], [*refused, *mixed.refused], mixed.figures)


def make_ready(job: Job, ranks: Ranks = ALONE, rows: Rows | None = None) -> Ready:
    """Rows read and encoded where they are not given, the plan made, the model loaded with its adapter. Raises InputError when there are too few rows for one batch."""
    section = TrainSection.model_validate(job.section)
    chat = Chat.load(Path(job.base))
    rows = rows or read_rows(job, ranks)
    device = ranks.device if ranks.world > 1 else "cuda" if torch.cuda.is_available() else "cpu"
    precision = number_format.for_training(section.precision, device)
    examples, tests = [example for _, example in rows.train], rows.checks
    objective = shelf.find("objectives", section.objective.name).load()
    if hasattr(objective, "require"):
        shelf.call("objectives", section.objective.name, "require", section.objective.options)(examples)
    usual = getattr(objective, "LEARNING_RATE", shelf.find("adapters", section.adapter.name).load().LEARNING_RATE)
    plan = _plan(section, examples, section.learning_rate or usual, precision)
    model = make_model(section, job, precision, device)
    if hasattr(objective, "prepare"):
        start = _starting_model(model, section, job, plan, device, ranks)
        examples, tests = (objective.prepare(group, start) if group else group for group in (examples, tests))
    loss = shelf.call("objectives", section.objective.name, "loss", section.objective.options)
    return Ready(model, chat, examples, tests, [name for name, _ in rows.train], rows.refused, plan, loss, usual, device, rows.replay)


def drawn(items: Seq[T], count: int, seed: int) -> list[T]:
    """At most `count` of the items, drawn over all of them: the first rows of a file are often of one kind."""
    return list(items) if len(items) <= count else random.Random(seed).sample(list(items), count)


def _starting_model(model: nn.Module, section: TrainSection, job: Job, plan: Plan, device: str, ranks: Ranks) -> StartingModel:
    """Who gives an objective its reference log-probabilities."""
    meaning = {**start_of(job), "adapter": section.adapter.model_dump(), "seed": section.seed}
    kept = Path(job.work) / "reference.jsonl" if job.work else None  # a test of an entry writes nothing
    return StartingModel(model, meaning, kept, plan.precision, device, plan.micro_tokens, ranks, continued=job.start is not None)


def _plan(section: TrainSection, examples: list[Example], rate: float, precision: number_format.Format) -> Plan:
    names = {"batch_size", "epochs", "warmup", "validations", "checkpoints", "micro_tokens", "schedule", "weight_decay", "clip", "seed"}
    given = section.model_dump(include=names | {"optimizer", "patience", "keep", "ema", "order"})
    steps = section.max_steps
    if section.max_tokens is not None:
        steps = steps_within(section.max_tokens, sum(example.tokens for example in examples), len(examples), section.batch_size)
    return make_plan(len(examples), **given, max_steps=steps, learning_rate=rate, precision=precision)


def make_model(section: TrainSection, job: Job, precision: number_format.Format, device: str) -> nn.Module:
    """The base with its adapter: a new one from the section's seed, or the one of `job.start`."""
    torch.manual_seed(section.seed)
    kept: Literal["fp32", "bf16"] = "bf16" if precision == "bf16" else "fp32"  # under fp16 the frozen base stays fp32 and its products are made in fp16
    base = load(Path(job.base), kept, trained=section.adapter.name == "full", device=device, four_bit=section.four_bit)
    model: nn.Module = shelf.call("adapters", section.adapter.name, "attach", section.adapter.options)(base)
    if job.start is not None:
        trained.load_adapter(model, Path(job.start))
    if section.checkpoint_activations:
        checkpoint_activations(model)
    return model.to(device)


def start_of(job: Job) -> dict[str, Any]:
    """The weights an entry starts from."""
    start = file_hash(Path(job.start) / "adapter_model.safetensors") if job.start is not None else None
    return {"base": bundled.identity(Path(job.base)), "start": start}
