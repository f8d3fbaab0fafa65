"""One entry of a recipe's train list: a model tuned, the result written. The same in this process and on every rank of several."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from planish import shelf
from planish.data.tree import Sequence
from planish.errors import Problem, RunFailed
from planish.events import EventType
from planish.model import bundled, loop, trained
from planish.model.account import account
from planish.model.backbone import base_of
from planish.model.checkpoint import Position
from planish.model.curve import Step, memory_mb
from planish.model.described import warnings_of
from planish.model.layout import layout_of
from planish.model.optimizer import trainable
from planish.model.plan import Plan, warnings
from planish.model.ranks import ALONE, Ranks, is_spread, placed, whole
from planish.model.schedule import learning_rate
from planish.model.trunk import Trunk, frozen_depth
from planish.recipe_train import TrainSection
from planish.stages._context import write_json
from planish.stages._eased import differences
from planish.stages._live_doctor import LiveDoctor
from planish.stages._ready import Job, Ready, Rows, make_model, make_ready, start_of
from planish.stages._replay import said_of

PROBES = 4
"""Training rows that are asked before and after training: an adapter that changes no answer of theirs does nothing."""


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


def tune(job: Job, listener: Listener, ranks: Ranks = ALONE, rows: Rows | None = None) -> None:
    """Run the entry, going on from the newest checkpoint in its work folder: `adapter/` in PEFT's layout or `model/`, `metrics.jsonl` and `report.json`."""
    ready = make_ready(job, ranks, rows)
    section, base, plan = TrainSection.model_validate(job.section), Path(job.base), ready.plan
    start = {name: parameter.detach().clone() for name, parameter in trainable(ready.model).items()}
    said = None if is_spread(ready.model) else trained.outputs(ready.model, _asked(ready), plan.precision, ready.device)
    counted = account(ready.model)
    counts = {"trainable": counted.trainable, "parameters": counted.base, "formula": counted.formula, "bytes": counted.bytes}
    rows_of_it = {"refused": len(ready.refused), "replay": ready.replay, "reference": ready.reference}
    asked = {"objective": {"name": section.objective.name}, "adapter": {"name": section.adapter.name}}
    listener.event(EventType.TRAIN_PLANNED, {**asked, "plan": asdict(plan), "ranks": ranks.world, **counts, **rows_of_it})
    listener.say(
        f"  {plan.steps} steps over {plan.rows} rows, {counted.trainable:,} of {counted.base:,} parameters trained ({counted.share:.2%}), {plan.precision}"
        + said_of(ready.replay)
    )
    listener.say(f"  trained: {counted.formula} = {counted.trainable:,}, {counted.bytes / 1e6:.1f} MB")

    def warned(text: str, **more: Any) -> None:
        listener.event(EventType.TRAIN_WARNED, {"what": text, **more}, "warning")
        listener.say(f"  note: {text}")

    doctor = LiveDoctor(plan, ready.usual_rate, _chance(section, ready), warned)

    def stepped(line: Step) -> None:
        listener.step(line)
        doctor.add(line)

    def started(position: Position) -> None:
        if position.step:
            doctor.begin(Path(job.work) / "metrics.jsonl")
            listener.event(EventType.TRAIN_RESUMED, {"step": position.step})
            listener.say(f"  going on after step {position.step}")
        listener.begin(position.step, plan.steps)

    _tell_reference(ready, listener, warned)
    for text in (*_left_out(ready), *warnings(plan, ready.usual_rate), *warnings_of(ready.model), *_advised(section, ready)):
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
        on_step=stepped,
        on_checkpoint=lambda path, at: listener.event(EventType.TRAIN_CHECKPOINT, {"step": at.step, "folder": path.name}),
        on_warning=warned,
        device=ready.device,
        names=ready.names,
        ranks=ranks,
        trunk=trunk,
        rollout=ready.rollout,
        may_differ=differences(job.memory.get("levers", ())),
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
    moved, other = _effect(ready, model, start, said, position)
    folder = Path(job.out)
    trained.save(model, ready.chat, folder, base)
    (folder / "metrics.jsonl").write_bytes((Path(job.work) / "metrics.jsonl").read_bytes())
    write_json(
        folder / "report.json",
        {
            "plan": asdict(plan),
            "objective": section.objective.model_dump(),
            "adapter": section.adapter.model_dump(),
            "section": job.section,
            "replay": ready.replay,
            "memory": {**job.memory, "peak": memory_mb(ready.device) * 2**20},
            "started_from": start_of(job),
            "weights": trained.weights_hash(folder),
            "base": bundled.identity(base),
            "template": ready.chat.template_hash,
            **counts,
            "tokens_computed": position.tokens,
            "tokens_in": sum(example.tokens for example in ready.examples),
            "trained_tokens": sum(len(sequence.scored) for example in ready.examples for sequence in example.sequences),
            "chance": _chance(section, ready),
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


def _tell_reference(ready: Ready, listener: Listener, warned: Callable[[str], None]) -> None:
    """What of the log-probabilities that the objective compares with had to be computed."""
    if (known := ready.reference) is None:
        return
    listener.say(f"  reference log-probabilities: {known['computed']:,} of {known['sequences']:,} computed ({known['tokens']:,} tokens), the others known")
    if known["spoilt"]:
        warned(f"{known['spoilt']} files of kept reference log-probabilities were spoilt: taken away, and what they held was computed again")


def _effect(ready: Ready, model: nn.Module, start: dict[str, torch.Tensor], said: Any, position: Position) -> tuple[float, float | None]:
    """How far the trained weights and a few answers moved. Raises RunFailed adapter_did_nothing where they did not."""
    moved = trained.changed(model, start)
    other = None if said is None else trained.output_change(said, trained.outputs(model, _asked(ready), ready.plan.precision, ready.device))
    if moved == 0 or other == 0:
        why = "no trained weight changed" if moved == 0 else "the trained weights changed and no answer did"
        fix = "raise learning_rate or steps, and look at the gradient norms"
        if moved == 0 and (warming := still_warming(ready.plan, position)):
            why, fix = f"{why}, {warming}", "train more steps (max_steps, epochs), or set warmup: 0, or keep: last"
        raise RunFailed(Problem("train", f"{why}: the adapter does nothing", fix), reason_code="adapter_did_nothing")
    return moved, other


def still_warming(plan: Plan, position: Position) -> str:
    """Words for weights that are kept from before the rate left 0, as those of a first step that warms up are; nothing where some step up to there had a rate."""
    kept = position.best_step if plan.keep == "best" and position.best_step is not None else position.step
    rate = partial(learning_rate, peak=plan.learning_rate, warmup=plan.warmup, steps=plan.steps, schedule=plan.schedule)
    if kept == 0 or any(map(rate, range(kept))):
        return ""
    best = "the best validation loss is that of" if kept == position.best_step and kept != position.step else "the run ended after"
    return f"as {best} step {kept} of {plan.steps} and the rate was 0 until then: it warms up from 0 over {plan.warmup} steps"


def _diagnosed(section: TrainSection, figures: Path) -> list[str]:
    """What the objective says of the figures of its run, where it has a word on them and something is to be done."""
    objective = shelf.find("objectives", section.objective.name).load()
    if not hasattr(objective, "diagnose"):
        return []
    lines = [json.loads(line) for line in figures.read_text(encoding="utf-8").splitlines()]
    checks = [{"step": line["step"], **line["validation_metrics"]} for line in lines if line["validation_loss"] is not None]
    found = objective.diagnose([{"loss": line["loss"], **line["metrics"]} for line in lines], checks)
    return [f"{state.state} since step {state.since_step}: {state.evidence}; {state.fix}" for state in found if state.fix and state.state != "too_early"]


def _left_out(ready: Ready) -> list[str]:
    """Rows that the objective refused, by the first reason of each code: no row goes unsaid (MISSION R-2)."""
    said = []
    for rows, of in ((ready.refused, "training"), (ready.unchecked, "validation")):
        why = {one["code"]: one["why"] for one in reversed(rows)}
        codes = ", ".join(f"{count} {code} ({why[code]})" for code, count in Counter(one["code"] for one in rows).most_common())
        said += [f"{len(rows)} {of} rows are left out: {codes}"] if rows else []
    return said


def _advised(section: TrainSection, ready: Ready) -> list[str]:
    """What the objective has to say of what it is given, where it has a word on it."""
    name, options = section.objective.name, section.objective.options
    known = hasattr(shelf.find("objectives", name).load(), "advise")
    return list(shelf.call("objectives", name, "advise", options)(ready.examples, ready.replay)) if known else []


def _chance(section: TrainSection, ready: Ready) -> float | None:
    """The loss of a guess that knows nothing of a row, where the objective has one."""
    objective = shelf.find("objectives", section.objective.name).load()
    return float(objective.chance(ready.examples, base_of(ready.model).config.vocab_size)) if hasattr(objective, "chance") else None


def _asked(ready: Ready) -> list[Sequence]:
    """A few rows whose answers are compared before and after."""
    return [sequence for example in ready.examples[:PROBES] for sequence in example.sequences]


def _trunk(ready: Ready, section: TrainSection, work: Path, ranks: Ranks, warned: Callable[[str], None]) -> Trunk | None:
    """The cache of the frozen lower layers where it is asked for, or the adapter's own way; where it cannot be, that is said and nothing is cached."""
    usual: int = getattr(shelf.find("adapters", section.adapter.name).load(), "TRUNK_CACHE_MB", 0) if frozen_depth(ready.model) else 0
    budget = usual if section.trunk_cache_mb is None else section.trunk_cache_mb
    if not budget:
        return None
    if ranks.in_step:
        warned("trunk_cache_mb: off: under fsdp no rank holds the layers that it would cache")
        return None
    work.mkdir(parents=True, exist_ok=True)
    trunk = Trunk(ready.model, work / f"trunk-{ranks.rank}.bin", budget * 2**20, ready.plan.precision, ready.device)
    if trunk.reason:
        warned(f"trunk_cache_mb: off: {trunk.reason}")
    return trunk


def _gathered(model: nn.Module, section: TrainSection, job: Job, plan: Plan) -> nn.Module:
    """The model whole again, where it was spread over ranks. Every rank must ask."""
    if not is_spread(model):
        return model
    weights = {name: whole(parameter.detach()) for name, parameter in trainable(model).items()}
    fresh = make_model(section, job, plan.precision, "cpu")
    with torch.no_grad():
        for name, parameter in trainable(fresh).items():
            parameter.copy_(placed(weights[name], parameter))
    return fresh.eval()


def _meaning(job: Job) -> dict[str, Any]:
    """What a checkpoint of this entry is of. How many ranks share the work, and what memory they have, changes nothing that is kept."""
    section = {key: value for key, value in job.section.items() if key not in ("launch", "memory_limit", "on_out_of_memory")}
    mixed = {"replay": job.replay, "documents": job.documents}
    replayed = {name: Path(path).name for name, path in mixed.items() if path is not None}
    return {**start_of(job), "data": Path(job.dataset).name, "section": section, **replayed}
