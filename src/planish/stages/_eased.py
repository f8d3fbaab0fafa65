"""An entry after levers against running out of memory: the keys that each sets, what is kept of the way down, what a checkpoint may differ in (MISSION T8)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planish.model import oom_ladder
from planish.model.memory_setup import Setup
from planish.recipe_keys import Use
from planish.recipe_train import TrainSection
from planish.store.objects import write_atomic

KEPT = "memory.json"
"""In an entry's work folder: the section that fits as far as is known, so that a run that was killed on the way down does not begin at its top again."""
SAME_WEIGHTS = {
    "halve_micro": ("micro_tokens",),
    "checkpoint_activations": ("checkpoint_activations",),
    "bf16": ("precision",),
}
"""Levers after which a run goes on from its checkpoint, with the keys that they change. The others train other weights, or other rows, and begin afresh."""


@dataclass(frozen=True)
class Eased:
    """A section as it is to be trained, the levers that made it so as events, and how many of them began the run afresh."""

    section: TrainSection
    levers: tuple[dict[str, Any], ...] = ()
    fresh: int = 0

    def work(self, work: Path) -> Path:
        """Where its checkpoints lie: those of an experiment that was given up are never read as its own."""
        return work / f"afresh-{self.fresh}" if self.fresh else work

    def keep(self, work: Path, asked: TrainSection) -> None:
        """Write it down."""
        work.mkdir(parents=True, exist_ok=True)
        held = {"asked": _identity(asked), "section": self.section.model_dump(mode="json"), "levers": self.levers, "fresh": self.fresh}
        write_atomic(work / KEPT, json.dumps(held).encode())


def begin(work: Path, asked: TrainSection) -> Eased:
    """The section as it was left by an earlier start of this very run, or as it is asked for."""
    path = work / KEPT
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if held is None or held["asked"] != _identity(asked):
        return Eased(asked)
    now = {"launch": asked.launch, "memory_limit": asked.memory_limit}
    return Eased(TrainSection.model_validate(held["section"]).model_copy(update=now), tuple(held["levers"]), held["fresh"])


def pulled(before: Eased, lever: oom_ladder.Lever, micro_tokens: int, why: str) -> Eased:
    """After one more lever. `micro_tokens` is the budget of a micro-batch of half the rows; `why` says what ran out, or was predicted to."""
    section = before.section
    update = _update(lever.kind, section, lever.setup, micro_tokens)
    after = section.model_copy(update=update)
    told = lever.event() | {"why": why, "recipe": {key: _plain(getattr(after, key)) for key in update}}
    return replace(before, section=after, levers=(*before.levers, told), fresh=before.fresh + (lever.kind not in SAME_WEIGHTS))


def differences(levers: Iterable[dict[str, Any]]) -> set[str]:
    """The keys in which a checkpoint may differ from the run that goes on from it."""
    keys = {key for lever in levers for key in SAME_WEIGHTS.get(lever["kind"], ())}
    return {f"section.{key}" for key in keys} | {f"plan.{key}" for key in keys & {"micro_tokens", "precision"}}


def _update(kind: str, section: TrainSection, setup: Setup, micro_tokens: int) -> dict[str, Any]:
    """The keys that a lever sets."""
    if kind == "halve_micro":
        return {"micro_tokens": micro_tokens}
    if kind == "checkpoint_activations":
        return {"checkpoint_activations": True}
    if kind == "bf16":
        return {"precision": "bf16"}
    if kind == "lora":  # a rate for every weight is a tenth of what a LoRA takes (MISSION T3), so that the adapter's own is taken
        return {"adapter": Use(name="lora", options={"r": setup.rank}), "learning_rate": None}
    if kind == "qlora":
        return {"four_bit": True}
    if kind == "adamw_8bit":
        return {"optimizer": "adamw_8bit"}
    if kind == "lower_rank":
        options = dict(section.adapter.options)
        if options.get("alpha") is not None:  # alpha / r stays
            options["alpha"] = max(1, options["alpha"] // 2)
        return {"adapter": Use(name=section.adapter.name, options={**options, "r": setup.rank})}
    if kind == "drop_rows":
        return {"max_length": setup.length}
    raise ValueError(f"{kind} sets no key")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Use) else value


def _identity(section: TrainSection) -> dict[str, Any]:
    """What was asked for, without what only says where it runs."""
    return section.model_dump(mode="json", exclude={"launch", "memory_limit"})
