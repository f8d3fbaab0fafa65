"""The way down when memory does not suffice: eight levers in order, the first four by themselves, the others only when asked for; no answer is ever cut (MISSION T8)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from planish.model.memory import Estimate, Setup, Shape, estimate

EVENT = "train.oom_retry"
NAMES = {
    1: "halve the micro-batch and double the accumulation",
    2: "score trained rows only, in chunks",
    3: "checkpoint activations",
    4: "compute in bf16",
    5: "train a LoRA instead of every weight",
    6: "keep the frozen base in NF4 (QLoRA)",
    7: "8-bit optimizer, then a lower rank",
    8: "split or leave out long rows",
}
AUTOMATIC = (1, 2, 3, 4)
"""Levers that change what a step costs and not what it computes; the others are another experiment and are asked for."""
KEYS = {
    1: "train.micro_tokens: {tokens}",
    2: "nothing to write: planish always does",
    3: "train.checkpoint_activations: true",
    4: "train.precision: bf16",
    5: "train.adapter: {{lora: {{r: {rank}}}}}",
    6: "train.four_bit: true, adapter: {{lora: {{r: {rank}}}}}",
    7: "train.optimizer: {optimizer}, adapter rank {rank}",
    8: "train.max_length: {length} (rows are split or dropped, no answer is cut)",
}
LORA_RANK, LOWEST_RANK, SHORTEST = 16, 4, 128


@dataclass(frozen=True)
class Lever:
    """One step down. `allowed` is false where the user must say yes first; `before` and `after` hold what it changes."""

    number: int
    before: dict[str, Any]
    after: dict[str, Any]
    setup: Setup
    allowed: bool

    @property
    def name(self) -> str:
        """What it does."""
        return NAMES[self.number]

    @property
    def change(self) -> str:
        """The same as a recipe change."""
        now = self.setup
        return KEYS[self.number].format(tokens=now.tokens, rank=now.rank, optimizer=now.optimizer, length=now.length)

    def event(self) -> dict[str, Any]:
        """The body of an event of type EVENT: lever, before and after, and the effective batch that stays."""
        return {"lever": self.number, "name": self.name, "before": self.before, "after": self.after, "effective": self.setup.rows}


def next_lever(shape: Shape, setup: Setup, consent: Collection[int] = ()) -> Lever | None:
    """The first lever that still changes something and may be pulled; where none may, the first that must be asked for (`allowed` is false); None where all are down."""
    asked = None
    for number in NAMES:
        after = _pull(number, shape, setup)
        if after is None:
            continue
        changed = [key for key in vars(setup) if getattr(setup, key) != getattr(after, key)]
        allowed = number in AUTOMATIC or number in consent
        lever = Lever(number, {key: getattr(setup, key) for key in changed}, {key: getattr(after, key) for key in changed}, after, allowed)
        if allowed:
            return lever
        asked = asked or lever
    return asked


@dataclass(frozen=True)
class Descent:
    """The levers that were needed, in order, and where they lead. `fits` is false where even the last does not make it fit: that setup is then the smallest there is."""

    levers: tuple[Lever, ...]
    setup: Setup
    estimate: Estimate
    fits: bool

    @property
    def asks(self) -> bool:
        """Whether one of the levers changes the experiment."""
        return any(lever.number not in AUTOMATIC for lever in self.levers)


def descend(shape: Shape, setup: Setup, limit: float, *, factor: float | None = None, consent: Collection[int] = tuple(NAMES)) -> Descent:
    """Pull levers until the upper end of the estimate is within `limit` bytes; then leave out those that the others made needless."""
    levers: list[Lever] = []
    now = setup
    while not _fits(shape, now, limit, factor):
        lever = next_lever(shape, now, consent)
        if lever is None or not lever.allowed:
            return Descent(tuple(levers), now, estimate(shape, now, factor=factor), False)
        levers.append(lever)
        now = lever.setup
    numbers = [lever.number for lever in levers]
    for number in sorted(set(numbers), reverse=True):  # what changes the experiment is left out first
        while number in numbers:
            fewer = list(numbers)
            fewer.remove(number)
            if (shorter := _again(shape, setup, fewer)) is None or not _fits(shape, shorter[1], limit, factor):
                break
            numbers, (levers, now) = fewer, shorter
    return Descent(tuple(levers), now, estimate(shape, now, factor=factor), True)


def _fits(shape: Shape, setup: Setup, limit: float, factor: float | None) -> bool:
    return estimate(shape, setup, factor=factor).high <= limit


def _again(shape: Shape, setup: Setup, numbers: list[int]) -> tuple[list[Lever], Setup] | None:
    """The same way with fewer levers; None where one of them cannot be pulled without one that is left out."""
    levers = []
    for number in numbers:
        after = _pull(number, shape, setup)
        if after is None:
            return None
        changed = [key for key in vars(setup) if getattr(setup, key) != getattr(after, key)]
        levers.append(Lever(number, {key: getattr(setup, key) for key in changed}, {key: getattr(after, key) for key in changed}, after, True))
        setup = after
    return levers, setup


def _pull(number: int, shape: Shape, setup: Setup) -> Setup | None:
    """The setup after a lever; None where it changes nothing any more."""
    if number == 1 and setup.micro > 1:
        micro = setup.micro // 2 if setup.micro % 2 == 0 else 1
        return replace(setup, micro=micro, accumulation=setup.accumulation * setup.micro // micro)
    if number == 2 and not setup.chunked:
        return replace(setup, chunked=True)
    if number == 3 and not setup.checkpointed and setup.trained_layers != 0:
        return replace(setup, checkpointed=True)
    if number == 4 and setup.precision == "fp32":
        return replace(setup, precision="bf16")
    if number == 5 and setup.technique == "full":
        return replace(setup, technique="lora", rank=LORA_RANK, trainable=LORA_RANK * shape.lora_unit, account="ours")
    if number == 6 and setup.technique == "lora":
        return replace(setup, technique="qlora")
    if number == 7 and setup.optimizer == "adamw":
        return replace(setup, optimizer="adamw_8bit")
    if number == 7 and setup.rank is not None and setup.rank // 2 >= LOWEST_RANK:
        return replace(setup, rank=setup.rank // 2, trainable=setup.trainable * (setup.rank // 2) // setup.rank)
    if number == 8 and setup.length // 2 >= SHORTEST:
        return replace(setup, length=setup.length // 2, scored=min(setup.scored, setup.length // 2))
    return None
