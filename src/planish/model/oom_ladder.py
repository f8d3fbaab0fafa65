"""The way down when memory does not suffice: eight levers in order, the first four by themselves, the others only when asked for; no answer is ever cut (MISSION T8)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from planish.model.memory import estimate
from planish.model.memory_estimate import Estimate
from planish.model.memory_setup import Setup, Shape

NUMBERS = {
    "halve_micro": 1,
    "chunk_logits": 2,
    "checkpoint_activations": 3,
    "bf16": 4,
    "lora": 5,
    "qlora": 6,
    "adamw_8bit": 7,
    "lower_rank": 7,
    "drop_rows": 8,
}
"""Every lever in the order in which it is pulled, with its number in MISSION T8, whose seventh is two."""
NAMES = {
    "halve_micro": "halve the micro-batch and double the accumulation",
    "chunk_logits": "score trained rows only, in chunks",
    "checkpoint_activations": "checkpoint activations",
    "bf16": "compute in bf16",
    "lora": "train a LoRA instead of every weight",
    "qlora": "keep the frozen base in NF4 (QLoRA)",
    "adamw_8bit": "keep the optimizer's moments in 8 bits",
    "lower_rank": "halve the adapter's rank",
    "drop_rows": "leave out long rows",
}
KEYS = {
    "halve_micro": "train.micro_tokens: {tokens}",
    "chunk_logits": "nothing to write: planish always does",
    "checkpoint_activations": "train.checkpoint_activations: true",
    "bf16": "train.precision: bf16",
    "lora": "train.adapter: {{lora: {{r: {rank}}}}}",
    "qlora": "train.four_bit: true, adapter: {{lora: {{r: {rank}}}}}",
    "adamw_8bit": "train.optimizer: adamw_8bit",
    "lower_rank": "train.adapter rank {rank}",
    "drop_rows": "train.max_length: {length} (longer rows are left out and counted, no answer is cut)",
}
AUTOMATIC = ("halve_micro", "chunk_logits", "checkpoint_activations", "bf16")
"""Levers that change what a step costs and not what it computes; the others are another experiment and are asked for."""
ASKED = tuple(kind for kind in NUMBERS if kind not in AUTOMATIC)
LORA_RANK, LOWEST_RANK, SHORTEST = 16, 4, 128


@dataclass(frozen=True)
class Lever:
    """One step down. `allowed` is false where the user must say yes first; `before` and `after` hold what it changes."""

    kind: str
    before: dict[str, Any]
    after: dict[str, Any]
    setup: Setup
    allowed: bool

    @property
    def number(self) -> int:
        """Its number in MISSION T8."""
        return NUMBERS[self.kind]

    @property
    def name(self) -> str:
        """What it does."""
        return NAMES[self.kind]

    @property
    def change(self) -> str:
        """The same as a recipe change."""
        now = self.setup
        return KEYS[self.kind].format(tokens=now.tokens, rank=now.rank, length=now.length)

    def event(self) -> dict[str, Any]:
        """The body of an event `train.oom_retry`: lever, before and after, and the effective batch that stays."""
        return {"lever": self.number, "kind": self.kind, "name": self.name, "before": self.before, "after": self.after, "effective": self.setup.rows}


def next_lever(shape: Shape | None, setup: Setup, consent: Collection[str] = ()) -> Lever | None:
    """The first lever that still changes something and may be pulled; where none may, the first that must be asked for (`allowed` is false); None where all are down."""
    asked = None
    for kind in NUMBERS:
        after = _pull(kind, shape, setup)
        if after is None:
            continue
        lever = _lever(kind, setup, after, kind in AUTOMATIC or kind in consent)
        if lever.allowed:
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
        return any(lever.kind not in AUTOMATIC for lever in self.levers)


def descend(shape: Shape, setup: Setup, limit: float, *, factor: float | None = None, consent: Collection[str] = ASKED, sure: bool = True) -> Descent:
    """Pull levers until the upper end of the estimate, or without `sure` the estimate itself, is within `limit` bytes; then leave out those that the others made needless."""

    def fits(one: Setup) -> bool:
        found = estimate(shape, one, factor=factor)
        return (found.high if sure else found.total) <= limit

    levers: list[Lever] = []
    now = setup
    while not fits(now):
        lever = next_lever(shape, now, consent)
        if lever is None or not lever.allowed:
            return Descent(tuple(levers), now, estimate(shape, now, factor=factor), False)
        levers.append(lever)
        now = lever.setup
    kinds = [lever.kind for lever in levers]
    for kind in sorted(set(kinds), key=list(NUMBERS).index, reverse=True):  # what changes the experiment is left out first
        while kind in kinds:
            fewer = list(kinds)
            fewer.remove(kind)
            if (shorter := _again(shape, setup, fewer)) is None or not fits(shorter[1]):
                break
            kinds, (levers, now) = fewer, shorter
    return Descent(tuple(levers), now, estimate(shape, now, factor=factor), True)


def _lever(kind: str, before: Setup, after: Setup, allowed: bool) -> Lever:
    changed = [key for key in vars(before) if getattr(before, key) != getattr(after, key)]
    return Lever(kind, {key: getattr(before, key) for key in changed}, {key: getattr(after, key) for key in changed}, after, allowed)


def _again(shape: Shape, setup: Setup, kinds: list[str]) -> tuple[list[Lever], Setup] | None:
    """The same way with fewer levers; None where one of them cannot be pulled without one that is left out."""
    levers = []
    for kind in kinds:
        after = _pull(kind, shape, setup)
        if after is None:
            return None
        levers.append(_lever(kind, setup, after, True))
        setup = after
    return levers, setup


def _pull(kind: str, shape: Shape | None, setup: Setup) -> Setup | None:
    """The setup after a lever; None where it changes nothing any more. Without a shape it is not known how much a LoRA would train, and none is proposed."""
    if kind == "halve_micro" and setup.micro > 1:
        micro = setup.micro // 2 if setup.micro % 2 == 0 else 1
        return replace(setup, micro=micro, accumulation=setup.accumulation * setup.micro // micro)
    if kind == "chunk_logits" and not setup.chunked:
        return replace(setup, chunked=True)
    if kind == "checkpoint_activations" and not setup.checkpointed and setup.trained_layers != 0:
        return replace(setup, checkpointed=True)
    if kind == "bf16" and setup.precision == "fp32":
        return replace(setup, precision="bf16")
    if kind == "lora" and setup.technique == "full" and shape is not None:
        return replace(setup, technique="lora", rank=LORA_RANK, trainable=LORA_RANK * shape.lora_unit, account="ours")
    if kind == "qlora" and setup.technique == "lora":
        return replace(setup, technique="qlora")
    if kind == "adamw_8bit" and setup.optimizer == "adamw":
        return replace(setup, optimizer="adamw_8bit")
    if kind == "lower_rank" and setup.rank is not None and setup.rank // 2 >= LOWEST_RANK:
        return replace(setup, rank=setup.rank // 2, trainable=setup.trainable * (setup.rank // 2) // setup.rank)
    if kind == "drop_rows" and setup.length // 2 >= SHORTEST:
        return replace(setup, length=setup.length // 2, scored=min(setup.scored, setup.length // 2))
    return None
