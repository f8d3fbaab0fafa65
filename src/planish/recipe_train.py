"""An entry of a recipe's train list: objective and adapter, length and batch, precision, memory, general rows among the task's, processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from planish.recipe_keys import Adapter, Bytes, Objective, Section, Share, Use
from planish.shelf import shelf


class LaunchSection(Section):
    """How many processes of this machine train together: `ddp` keeps the model whole in each, `fsdp` spreads it over them. The result is the same (MISSION X6)."""

    ranks: Annotated[int, Field(gt=0)] = 1
    shard: Literal["ddp", "fsdp"] = "ddp"


class ReplaySection(Section):
    """General rows among the task's, so that it forgets less: a share of the rows, weighted so that it is the same share of the loss. `rows` is `general` (text and
    exchanges that every machine has), `self` (the base's own answers to general questions), or the path of rows (MISSION C5)."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    rows: str = "general"


class TrainSection(Section):
    """One stage of training; the objective and the adapter bring their own keys. The next entry of the list starts from what this one made."""

    objective: Objective
    adapter: Adapter = Use(name="lora")
    documents: Path | None = None
    four_bit: bool = False
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Annotated[int, Field(gt=0)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    max_rows: Annotated[int, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(gt=0)] = 16
    order: Literal["random", "shared"] = "random"
    micro_tokens: Annotated[int, Field(gt=0)] = 2048
    max_length: Annotated[int, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validations: Annotated[int, Field(ge=0)] = 10
    patience: Annotated[int, Field(gt=0)] | None = 3
    keep: Literal["best", "last"] = "best"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    checkpoints: Annotated[int, Field(ge=0)] = 10
    checkpoint_activations: bool = False
    trunk_cache_mb: Annotated[int, Field(ge=0)] | None = None
    memory_limit: Bytes | None = None
    on_out_of_memory: list[Literal["lora", "qlora", "adamw_8bit", "lower_rank", "drop_rows"]] = []
    replay: ReplaySection | None = None
    seed: int = 42
    launch: LaunchSection = LaunchSection()

    @model_validator(mode="before")
    @classmethod
    def _as_its_objective_has_it(cls, given: Any) -> Any:
        """What the entry leaves out and its objective has a word on, as `ENTRY` in the objective's file."""
        if not isinstance(given, dict):
            return given
        try:
            name = Use.model_validate(given.get("objective")).name
        except ValidationError:
            return given  # said of the key itself
        known = shelf("objectives").get(name)
        return given if known is None else {**known.entry, **given}

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSection:
        lengths = [name for name in ("epochs", "max_steps", "max_tokens") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"{' and '.join(lengths)} both given: keep one (MISSION T5)")
        if self.batch_size % self.launch.ranks:
            raise ValueError(f"batch_size {self.batch_size} does not divide over launch.ranks {self.launch.ranks}: every rank takes the same number of rows")
        return self
