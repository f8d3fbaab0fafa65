"""One entry of a recipe's train list: rows encoded, a plan made, a model tuned, the result written. The same in this process and on every rank of several."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import nn

from planish import shelf
from planish.data import dataset
from planish.data.tree import Sequence
from planish.errors import InputError, Problem, RunFailed
from planish.events import EventType
from planish.model import bundled, loop, trained
from planish.model import precision as number_format
from planish.model.account import account
from planish.model.chat import Chat
from planish.model.checkpoint import Position
from planish.model.curve import Step
from planish.model.described import warnings_of
from planish.model.example import Example
from planish.model.layout import layout_of
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.plan import Plan, make_plan, steps_within, warnings
from planish.model.ranks import ALONE, Ranks, is_spread, placed, whole
from planish.model.recompute import checkpoint_activations
from planish.model.reference import StartingModel
from planish.model.trunk import Trunk
from planish.recipe import TrainSection
from planish.stages._context import write_json
from planish.stages._encoding import encode
from planish.store.objects import file_hash

T = TypeVar("T")
PROBES = 4
"""Training rows that are asked before and after training: an adapter that changes no answer of theirs does nothing."""
VALIDATION_ROWS = 128
"""Validation during training is a sample of this size: it steers, it proves nothing."""


@dataclass(frozen=True)
class Job:
    """One entry with everything it depends on, as plain values: other processes are handed it as JSON. `start` is an adapter folder to go on from, `work` keeps the
    checkpoints, the result is written to `out`, and tokenised rows are kept under `tokens`."""

    section: dict[str, Any]
    base: str
    start: str | None
    dataset: str
    work: str
    out: str
    tokens: str


class Listener(Protocol):
    """Who hears what a run does."""

    def event(self, type: EventType, body: dict[str, Any], severity: Literal["info", "warning"] = "info") -> None:
        """Something to record."""

    def say(self, text: str) -> None:
        """Something to show."""

    def begin(self, done: int, total: int) -> None:
        """The run is `done` of `total` steps in."""

    def step(self, line: Step) -> None:
        """One more step is done."""


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


def make_ready(job: Job, ranks: Ranks = ALONE) -> Ready:
    """Rows read and encoded, the plan made, the model loaded with its adapter. Raises InputError when there are too few rows for one batch."""
    section = TrainSection.model_validate(job.section)
    base = Path(job.base)
    data = dataset.read(Path(job.dataset))
    chat = Chat.load(base)
    tokens = Path(job.tokens) / (f"rank-{ranks.rank}" if ranks.world > 1 else "")
    encoded, refused = encode(section, list(data.rows("train")), data.task, base, tokens)
    checks, _ = encode(section, drawn(list(data.rows("validation")), VALIDATION_ROWS, section.seed), data.task, base, tokens)
    if section.max_rows is not None:
        encoded = drawn(encoded, section.max_rows, section.seed)
    if len(encoded) < section.batch_size:
        why = f"{len(encoded)} training rows are fewer than one batch of {section.batch_size} ({len(refused)} were refused)"
        raise InputError(Problem("train.batch_size", why, "lower batch_size or bring more rows"))
    device = ranks.device if ranks.world > 1 else "cuda" if torch.cuda.is_available() else "cpu"
    precision = number_format.for_training(section.precision, device)
    examples, tests = [example for _, example in encoded], [example for _, example in checks]
    objective = shelf.find("objectives", section.objective.name).load()
    if hasattr(objective, "require"):
        objective.require(examples)
    usual = getattr(objective, "LEARNING_RATE", shelf.find("adapters", section.adapter.name).load().LEARNING_RATE)
    plan = _plan(section, examples, section.learning_rate or usual, precision)
    model = _model(section, job, precision, device)
    if hasattr(objective, "prepare"):
        start = _starting_model(model, section, job, plan, device, ranks)
        examples, tests = (objective.prepare(group, start) if group else group for group in (examples, tests))
    loss = shelf.call("objectives", section.objective.name, "loss", section.objective.options)
    return Ready(model, chat, examples, tests, [name for name, _ in encoded], refused, plan, loss, usual, device)


def tune(job: Job, listener: Listener, ranks: Ranks = ALONE) -> None:
    """Run the entry, going on from the newest checkpoint in its work folder: `adapter/` in PEFT's layout or `model/`, `metrics.jsonl` and `report.json`."""
    ready = make_ready(job, ranks)
    section, base, plan = TrainSection.model_validate(job.section), Path(job.base), ready.plan
    start = {name: parameter.detach().clone() for name, parameter in trainable(ready.model).items()}
    said = None if is_spread(ready.model) else trained.outputs(ready.model, _asked(ready), plan.precision, ready.device)
    counted = account(ready.model)
    counts = {"trainable": counted.trainable, "parameters": counted.base, "formula": counted.formula, "bytes": counted.bytes}
    listener.event(EventType.TRAIN_PLANNED, {"plan": asdict(plan), "ranks": ranks.world, **counts, "refused": len(ready.refused)})
    listener.say(
        f"  {plan.steps} steps over {plan.rows} rows, {counted.trainable:,} of {counted.base:,} parameters trained ({counted.share:.2%}), {plan.precision}"
    )
    listener.say(f"  trained: {counted.formula} = {counted.trainable:,}, {counted.bytes / 1e6:.1f} MB")

    def warned(text: str) -> None:
        listener.event(EventType.TRAIN_WARNED, {"what": text}, "warning")
        listener.say(f"  note: {text}")

    def started(position: Position) -> None:
        if position.step:
            listener.event(EventType.TRAIN_RESUMED, {"step": position.step})
            listener.say(f"  going on after step {position.step}")
        listener.begin(position.step, plan.steps)

    for text in (*warnings(plan, ready.usual_rate), *warnings_of(ready.model)):
        warned(text)
    if reason := layout_of(ready.model).reason:
        warned(f"rows are padded, and prefixes that they share are computed for each: {reason}")
    trunk = _trunk(ready, section, Path(job.work), ranks, warned)
    position = loop.train(
        ready.model,
        ready.examples,
        ready.loss,
        plan,
        Path(job.work),
        meaning=_meaning(job),
        validation=ready.checks,
        on_start=started,
        on_step=listener.step,
        on_checkpoint=lambda path, at: listener.event(EventType.TRAIN_CHECKPOINT, {"step": at.step, "folder": path.name}),
        on_warning=warned,
        device=ready.device,
        names=ready.names,
        ranks=ranks,
        trunk=trunk,
    )
    if trunk is not None:
        trunk.close()
    if ranks.first:
        for state in _diagnosed(section, Path(job.work) / "metrics.jsonl"):
            warned(state)
    if position.stopped:
        listener.event(EventType.TRAIN_STOPPED_EARLY, {"step": position.step, "best_step": position.best_step, "best": position.best})
        listener.say(f"  stopped after step {position.step}: no better validation loss since step {position.best_step}")
    model = _gathered(ready.model, section, job, plan)
    if not ranks.first:
        return
    moved = trained.changed(model, start)
    other = None if said is None else trained.output_change(said, trained.outputs(model, _asked(ready), plan.precision, ready.device))
    if moved == 0 or other == 0:
        why = "no trained weight changed" if moved == 0 else "the trained weights changed and no answer did"
        fix = "raise learning_rate or steps, and look at the gradient norms"
        raise RunFailed(Problem("train", f"{why}: the adapter does nothing", fix), reason_code="adapter_did_nothing")
    folder = Path(job.out)
    trained.save(model, ready.chat, folder, base)
    (folder / "metrics.jsonl").write_bytes((Path(job.work) / "metrics.jsonl").read_bytes())
    write_json(
        folder / "report.json",
        {
            "plan": asdict(plan),
            "objective": section.objective.model_dump(),
            "adapter": section.adapter.model_dump(),
            "base": bundled.identity(base),
            "template": ready.chat.template_hash,
            **counts,
            "tokens_computed": position.tokens,
            "tokens_in": sum(example.tokens for example in ready.examples),
            "steps_done": position.step,
            "stopped_early": position.stopped,
            "best_validation": position.best,
            "best_step": position.best_step,
            "weight_change": moved,
            "output_change": other,
            "rows": len(ready.examples),
            "refused": ready.refused,
        },
    )


def _diagnosed(section: TrainSection, figures: Path) -> list[str]:
    """What the objective says of the figures of its run, where it has a word on them and something is to be done."""
    objective = shelf.find("objectives", section.objective.name).load()
    if not hasattr(objective, "diagnose"):
        return []
    lines = [json.loads(line) for line in figures.read_text(encoding="utf-8").splitlines()]
    found = objective.diagnose([{"loss": line["loss"], **line["metrics"]} for line in lines])
    return [f"{state.state} since step {state.since_step}: {state.evidence}; {state.fix}" for state in found if state.fix]


def drawn(items: Seq[T], count: int, seed: int) -> list[T]:
    """At most `count` of the items, drawn over all of them: the first rows of a file are often of one kind."""
    return list(items) if len(items) <= count else random.Random(seed).sample(list(items), count)


def _asked(ready: Ready) -> list[Sequence]:
    """A few rows whose answers are compared before and after."""
    return [sequence for example in ready.examples[:PROBES] for sequence in example.sequences]


def _starting_model(model: nn.Module, section: TrainSection, job: Job, plan: Plan, device: str, ranks: Ranks) -> StartingModel:
    """Who gives an objective its reference log-probabilities."""
    meaning = {**_start(job), "adapter": section.adapter.model_dump(), "seed": section.seed}
    kept = Path(job.work) / "reference.jsonl" if job.work else None  # a test of an entry writes nothing
    return StartingModel(model, meaning, kept, plan.precision, device, plan.micro_tokens, ranks, continued=job.start is not None)


def _plan(section: TrainSection, examples: list[Example], rate: float, precision: number_format.Format) -> Plan:
    names = {"batch_size", "epochs", "warmup", "validations", "checkpoints", "micro_tokens", "schedule", "weight_decay", "clip", "seed"}
    given = section.model_dump(include=names | {"optimizer", "patience", "keep", "ema", "order"})
    steps = section.max_steps
    if section.max_tokens is not None:
        steps = steps_within(section.max_tokens, sum(example.tokens for example in examples), len(examples), section.batch_size)
    return make_plan(len(examples), **given, max_steps=steps, learning_rate=rate, precision=precision)


def _model(section: TrainSection, job: Job, precision: number_format.Format, device: str) -> nn.Module:
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


def _trunk(ready: Ready, section: TrainSection, work: Path, ranks: Ranks, warned: Callable[[str], None]) -> Trunk | None:
    """The cache of the frozen lower layers where it is asked for; where it cannot be, that is said and nothing is cached."""
    if not section.trunk_cache_mb:
        return None
    if ranks.in_step:
        warned("trunk_cache_mb: off: under fsdp no rank holds the layers that it would cache")
        return None
    work.mkdir(parents=True, exist_ok=True)
    trunk = Trunk(ready.model, work / f"trunk-{ranks.rank}.bin", section.trunk_cache_mb * 2**20, ready.plan.precision, ready.device)
    if trunk.reason:
        warned(f"trunk_cache_mb: off: {trunk.reason}")
    return trunk


def _gathered(model: nn.Module, section: TrainSection, job: Job, plan: Plan) -> nn.Module:
    """The model whole again, where it was spread over ranks. Every rank must ask."""
    if not is_spread(model):
        return model
    weights = {name: whole(parameter.detach()) for name, parameter in trainable(model).items()}
    fresh = _model(section, job, plan.precision, "cpu")
    with torch.no_grad():
        for name, parameter in trainable(fresh).items():
            parameter.copy_(placed(weights[name], parameter))
    return fresh.eval()


def _meaning(job: Job) -> dict[str, Any]:
    """What a checkpoint of this entry is of. How many ranks share the work changes nothing that is kept."""
    section = {key: value for key, value in job.section.items() if key != "launch"}
    return {**_start(job), "data": Path(job.dataset).name, "section": section}


def _start(job: Job) -> dict[str, Any]:
    """The weights an entry starts from."""
    start = file_hash(Path(job.start) / "adapter_model.safetensors") if job.start is not None else None
    return {"base": bundled.identity(Path(job.base)), "start": start}
