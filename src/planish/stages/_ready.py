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
from planish.model.rollout import Rollout, Student
from planish.recipe_train import TrainSection
from planish.stages import _documents
from planish.stages._beside import loss_with, refusals
from planish.stages._encoding import encode
from planish.stages._known_rows import require_data
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
    documents: str | None = None  # the file of the documents, for an objective that is trained on them
    references: str | None = None  # where reference log-probabilities are kept for every run; in memory alone without


@dataclass(frozen=True)
class Rows:
    """Rows as examples, those to train on with their ids; `refused` ones are kept with their reason."""

    train: list[tuple[str, Example]]
    checks: list[Example]
    refused: list[dict[str, str]]
    replay: dict[str, Any] | None = None  # what share of the rows, and of the loss, is replayed
    unchecked: list[dict[str, str]] = field(default_factory=list)  # validation rows that are refused


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
    reference: dict[str, int] | None = None  # of the log-probabilities that the objective compares with: how many, and what of them was computed now
    rollout: Rollout | None = None
    unchecked: list[dict[str, str]] = field(default_factory=list)


def read_rows(job: Job, ranks: Ranks = ALONE) -> Rows:
    """Rows read and encoded. Raises InputError when there are too few for one batch."""
    section, base = TrainSection.model_validate(job.section), Path(job.base)
    data = dataset.read(Path(job.dataset))
    require_data(section, data)
    tokens = Path(job.tokens) / (f"rank-{ranks.rank}" if ranks.world > 1 else "")
    unchecked = list[dict[str, str]]()
    if job.documents is not None:
        encoded, refused, held = _documents.encoded(section, Path(job.documents), data.task, base, tokens)
        checks = drawn(_documents.in_blocks(section, held, base), _documents.CHECK_BLOCKS, section.seed)
    else:
        encoded, refused = encode(section, list(data.rows("train")), data.task, base, tokens)
        often = dataset.frequencies(data)
        encoded = [one for one in encoded for _ in range(often.get(one[0], 1))]
        checks, unchecked = encode(section, drawn(list(data.rows("validation")), VALIDATION_ROWS, section.seed), data.task, base, tokens)
    if section.max_rows is not None:
        encoded = drawn(encoded, section.max_rows, section.seed)
    if len(encoded) < (1 if job.documents is not None else section.batch_size):
        raise _too_few(len(encoded), section, len(refused))
    mixed = mix(section, Path(job.replay), encoded, base, tokens) if job.replay is not None else Mixed([], [], None)
    train = _documents.in_blocks(section, [*encoded, *mixed.encoded], base)
    if len(train) < section.batch_size:
        raise _too_few(len(train), section, len(refused))
    return Rows(train, [example for _, example in checks], [*refused, *mixed.refused], mixed.figures, unchecked)


def _too_few(count: int, section: TrainSection, refused: int) -> InputError:
    why = f"{count} training rows are fewer than one batch of {section.batch_size} ({refused} were refused)"
    return InputError(Problem("train.batch_size", why, "lower batch_size or bring more rows"))


def make_ready(job: Job, ranks: Ranks = ALONE, rows: Rows | None = None) -> Ready:
    """Rows read and encoded where they are not given, the plan made, the model loaded with its adapter. Raises InputError when there are too few rows for one batch."""
    section = TrainSection.model_validate(job.section)
    chat = Chat.load(Path(job.base))
    rows = rows or read_rows(job, ranks)
    device = ranks.device if ranks.world > 1 else "cuda" if torch.cuda.is_available() else "cpu"
    precision = number_format.for_training(section.precision, device)
    examples, tests = [example for _, example in rows.train], rows.checks
    objective = shelf.find("objectives", section.objective.name).load()
    if refused := refusals(section, Path(job.base)):
        raise InputError(*refused)
    if hasattr(objective, "require"):
        shelf.call("objectives", section.objective.name, "require", section.objective.options)(examples)
    usual = usual_rate(objective, section.adapter.name)
    plan = _plan(section, examples, section.learning_rate or usual, precision)
    model = make_model(section, job, precision, device)
    reference = None
    if hasattr(objective, "prepare"):
        start = _starting_model(model, section, job, plan, device, ranks)
        examples, tests = (objective.prepare(group, start) if group else group for group in (examples, tests))
        reference = start.figures
    loss, rollout = loss_with(section, Student(model, chat, precision, device), plan.seed)
    names = [name for name, _ in rows.train]
    return Ready(model, chat, examples, tests, names, rows.refused, plan, loss, usual, device, rows.replay, reference, rollout, rows.unchecked)


def usual_rate(objective: Any, adapter: str) -> float:
    """The objective's own rate, one for all adapters or one for each; the adapter's where it has none."""
    own = getattr(objective, "LEARNING_RATE", None)
    found = own.get(adapter) if isinstance(own, dict) else own
    return float(found or shelf.find("adapters", adapter).load().LEARNING_RATE)


def drawn(items: Seq[T], count: int, seed: int) -> list[T]:
    """At most `count` of the items, drawn over all of them: the first rows of a file are often of one kind."""
    return list(items) if len(items) <= count else random.Random(seed).sample(list(items), count)


def _starting_model(model: nn.Module, section: TrainSection, job: Job, plan: Plan, device: str, ranks: Ranks) -> StartingModel:
    """Who gives an objective its reference log-probabilities."""
    base, adapter = {**start_of(job), "four_bit": section.four_bit}, {"adapter": section.adapter.model_dump(), "seed": section.seed}
    kept = Path(job.references) if job.references else None
    return StartingModel(model, base, kept, plan.precision, device, plan.micro_tokens, ranks, continued=job.start is not None, adapter=adapter)


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
