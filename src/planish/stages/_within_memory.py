"""An entry of the train list within the memory there is: predicted, run, and eased lever by lever when memory runs out (MISSION T7, T8).

A run that might pass its limit is a process of its own, which is ended there: on a CPU the kernel would end this one without a word. A run whose predicted peak, error bar
included, stays under NEAR of the limit is done in this process, which saves three seconds of imports; so is one on a GPU, where running out is an exception, and one on a
system that does not tell what a process holds. The levers are pulled on the estimate itself, not on the end of its error bar: a wrong guess costs one more start, from the
last checkpoint, and a lever pulled for nothing costs the whole run.
"""

from __future__ import annotations

import gc
import os
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from planish.data.tree import pack
from planish.errors import InputError, Problem, RunFailed
from planish.events import EventType
from planish.model import memory, oom_ladder
from planish.model.calibration import remembered
from planish.model.entry_memory import Sized, brought, setup_of, sized
from planish.model.example import Example
from planish.model.machine import training_limit
from planish.model.memory_estimate import GB
from planish.model.memory_setup import Setup, Shape
from planish.model.out_of_memory import held, is_out_of_memory
from planish.recipe_train import TrainSection
from planish.stages import _beside
from planish.stages._eased import SAME_WEIGHTS, Eased, begin, pulled
from planish.stages._ranked import NEAR, launch
from planish.stages._ready import Job, Rows, read_rows
from planish.stages._tuning import Listener, tune

FIXED = ("base", "beside", "weights", "gradients", "master", "optimizer")
"""Parts of an estimate that follow from the number of parameters alone."""


@dataclass(frozen=True)
class Expected:
    """What an entry is expected to take. `halves` is the micro-batch budget with half the rows; `known` is None for a model of which nothing can be predicted."""

    setup: Setup
    halves: int
    known: Sized | None
    factor: float | None

    @property
    def shape(self) -> Shape | None:
        """The model's sizes."""
        return self.known.shape if self.known else None

    @property
    def peak(self) -> float | None:
        """Bytes, the estimate itself."""
        return memory.estimate(self.known.shape, self.setup, factor=self.factor).total if self.known else None

    @property
    def high(self) -> float:
        """Bytes, the upper end of the error bar; endless where nothing is known."""
        return memory.estimate(self.known.shape, self.setup, factor=self.factor).high if self.known else float("inf")

    def learnt(self, limit: float) -> float | None:
        """The factor that the formulas lacked, where more than `limit` was needed: the least that explains it."""
        if self.known is None:
            return None
        plain = memory.estimate(self.known.shape, self.setup)
        fluid = sum(plain.bytes(name) for name in memory.FLUID)
        return max(self.factor or 1.0, (limit - plain.total + fluid) / fluid) if fluid else self.factor


def within_memory(job: Job, listener: Listener) -> None:
    """Train the entry. Raises RunFailed out_of_memory, with the smallest change that fits, when every lever that may be pulled is; and what training raises."""
    asked = TrainSection.model_validate(job.section)
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    limit = training_limit(asked.memory_limit, device)
    share = limit / asked.launch.ranks
    eased = begin(Path(job.work), asked)
    if eased.levers:
        listener.say(f"  going on with what an earlier start came to: {_told(eased.levers)}")
    factor: float | None = None
    while True:
        now = replace(job, section=eased.section.model_dump(mode="json"), work=str(eased.work(Path(job.work))))
        rows = read_rows(now)
        expected = expect(eased.section, Path(job.base), rows, device, factor)
        lever, why = _foreseen(expected, eased.section, rows, share)
        if lever is None:
            now = replace(now, memory={"limit": limit, "predicted": expected.peak, "levers": list(eased.levers)})
            failure = _attempt(now, eased.section, listener, rows, limit, expected.high, device)
            if failure is None:
                return
            why, factor = failure, expected.learnt(share)
            expected = replace(expected, factor=factor)
            lever = oom_ladder.next_lever(expected.shape, expected.setup, _allowed(eased.section, expected, rows))
        if lever is None or not lever.allowed:
            raise _nothing_left(expected, share, why)
        eased = pulled(eased, lever, expected.halves, why)
        eased.keep(Path(job.work), asked)
        _say(eased, listener)


def expect(section: TrainSection, base: Path, rows: Rows, device: Literal["cpu", "cuda"], factor: float | None = None) -> Expected:
    """What the entry is expected to take on one rank. `factor` is what a run has shown; else a probe's on this machine is taken, where there is one."""
    grown = _beside.grown(section, [example for _, example in rows.train])
    micro, halves = largest(grown, section)
    try:
        known = sized(section, base)
    except InputError:  # an unknown architecture; what is wrong with an adapter is said when it is attached
        known = None
    longest = max(len(sequence.ids) for example in grown for sequence in example.sequences)
    setup = brought(setup_of(section, known.trained if known else None, micro, device, ranks=section.launch.ranks), section, longest)
    return Expected(setup, halves, known, max(filter(None, (factor, remembered(setup))), default=None))


def largest(examples: list[Example], section: TrainSection) -> tuple[tuple[int, int, int], int]:
    """(rows, tokens a row, trained tokens a row) of the largest micro-batch that the longest rows make, and the budget that half of its rows would need."""
    longest = sorted(examples, key=lambda example: -example.tokens)[: section.batch_size // section.launch.ranks]
    groups = [example.sequences for example in longest]
    members, tree = max(pack(groups, section.micro_tokens), key=lambda one: len(one[1].ids))
    count = len(members)
    half = [groups[index] for index in members[: max(1, count // 2)]]
    alone = max(len(one.ids) for _, one in pack(half, 1))  # no budget is less than its longest row
    tokens = range(alone, max(alone + 1, section.micro_tokens))
    halves = tokens[min(bisect_left(tokens, True, key=lambda budget: sum(1 for _ in pack(half, budget)) == 1), len(tokens) - 1)]
    return (count, -(-len(tree.ids) // count), max(1, -(-len(tree.target) // count))), halves


def _attempt(job: Job, section: TrainSection, listener: Listener, rows: Rows, limit: float, high: float, device: str) -> str | None:
    """Train; gives why memory ran out, or None when it is done."""
    try:
        if section.launch.ranks > 1:
            launch(job, section.launch, listener, limit if device == "cpu" else None)
        elif device == "cpu" and high > NEAR * limit and held(os.getpid()) is not None:
            launch(job, section.launch, listener, limit)
        else:
            if device == "cpu" and high > NEAR * limit:
                listener.say("  note: this system does not tell what a process holds, so that memory_limit is not enforced")
            tune(job, listener, rows=rows)
    except RunFailed as failed:
        if failed.reason_code != "out_of_memory":
            raise
        return failed.problems[0].why
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        why = f"out of memory: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    else:
        return None
    gc.collect()  # the frames of the failed step hold its tensors until here
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return why


def _foreseen(expected: Expected, section: TrainSection, rows: Rows, limit: float) -> tuple[oom_ladder.Lever | None, str]:
    """The first lever that is needed for the predicted peak to fit, and why; None where it fits, or may in spite of all levers.

    Raises RunFailed where the weights and their state alone, of which nothing is guessed, do not fit.
    """
    if expected.known is None or expected.peak is None or expected.peak <= limit:
        return None, ""
    why = f"predicted to take {expected.peak / GB:.2f} GB of {limit / GB:.2f} GB"
    allowed = _allowed(section, expected, rows)
    way = oom_ladder.descend(expected.known.shape, expected.setup, limit, factor=expected.factor, consent=allowed, sure=False)
    if way.levers:
        return way.levers[0], why
    if sum(memory.estimate(expected.known.shape, expected.setup).bytes(name) for name in FIXED) > limit:
        raise _nothing_left(expected, limit, why)
    return None, why


def _allowed(section: TrainSection, expected: Expected, rows: Rows) -> set[str]:
    """The levers that the recipe consents to and that can be pulled here."""
    allowed: set[str] = set(section.on_out_of_memory)
    if sum(max(len(one.ids) for one in example.sequences) <= expected.setup.length // 2 for _, example in rows.train) < section.batch_size:
        allowed.discard("drop_rows")  # not one batch would be left
    if section.launch.ranks > 1 and section.launch.shard == "fsdp":
        allowed.discard("adamw_8bit")
    return allowed


def _nothing_left(expected: Expected, limit: float, why: str) -> RunFailed:
    """Every lever that may be pulled is down: the smallest configuration, and whether it fits."""
    setup = expected.setup
    state = f"{why}; a micro-batch of {setup.micro} x {setup.length} tokens, {setup.technique} in {setup.precision}"
    state += ", activations checkpointed, logits in chunks" if setup.checkpointed else ", logits in chunks"
    if expected.known is None:
        fix = f"allow more in train.on_out_of_memory ({', '.join(oom_ladder.ASKED)}), raise train.memory_limit, or take a smaller model"
        return RunFailed(Problem("train", state, fix), reason_code="out_of_memory")
    way = oom_ladder.descend(expected.known.shape, setup, limit, factor=expected.factor, sure=False)
    changes = "; ".join({lever.kind: lever.change for lever in way.levers}.values()) or "none"
    asks = list(dict.fromkeys(lever.kind for lever in way.levers if lever.kind in oom_ladder.ASKED))
    if way.fits:
        fix = f"the smallest change that fits (predicted {way.estimate.total / GB:.2f} GB): {changes}"
        fix += f"; train.on_out_of_memory: [{', '.join(asks)}] lets it be made" if asks else ""
    else:
        fix = (
            f"the smallest configuration takes {way.estimate.total / GB:.2f} GB (predicted): {changes}; set train.memory_limit to that, or take a smaller model"
        )
    return RunFailed(Problem("train", state, fix), reason_code="out_of_memory")


def _say(eased: Eased, listener: Listener) -> None:
    lever = eased.levers[-1]
    listener.event(EventType.TRAIN_OOM_RETRY, lever, "warning")
    goes_on = "from the newest checkpoint, where there is one" if lever["kind"] in SAME_WEIGHTS else "from the start: other weights, or other rows, are trained"
    listener.say(f"  memory: {lever['why']}")
    listener.say(f"  lever {lever['lever']}: {lever['name']} ({_changed(lever)}), {goes_on}")
    if lever["lever"] > 2 and not any(one["lever"] > 2 for one in eased.levers[:-1]):
        listener.say("  lever 2, to score trained rows only and in chunks, is always pulled")


def _told(levers: tuple[dict[str, Any], ...]) -> str:
    return "; ".join({lever["kind"]: f"{lever['name']} ({_changed(lever)})" for lever in levers}.values())


def _changed(lever: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in lever["recipe"].items())
