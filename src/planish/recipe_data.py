"""The data section of a recipe: where the rows are, what they are for, how they are divided, and what is looked for in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from planish.recipe_keys import Check, Section, Share, Use

TaskShape = Literal["classification", "qa", "extraction", "summarization", "chat", "tools", "reasoning", "preference"]
"""What rows may be for; what each fixes stands in `planish.data.task` (MISSION D11)."""


class SplitSection(Section):
    """How rows are divided; rows of one group, and duplicates, never cross, and rows of the data set `keep` stay on the side where they lie there (MISSION D8)."""

    group_by: str | None = None
    keep: Path | None = None
    validation: Share = 0.1
    gold: Annotated[float, Field(gt=0, lt=1)] = 0.2
    gold_max: Annotated[int, Field(ge=30)] | None = None
    blind: Share = 0.0
    time_by: str | None = None
    seed: int = 42

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> SplitSection:
        if self.validation + self.gold >= 1:
            raise ValueError("validation and gold together leave no row to train on; lower one of them")
        return self


CHECKS = ("duplicates", "near_duplicates", "label_conflicts", "balance", "template", "mask", "leakage")
"""What is looked for unless the recipe says otherwise: what is silent when it goes wrong, and cheap to find."""


class DataSection(Section):
    """Where the rows are and what they are for."""

    path: Path
    gold: Path | None = None
    task: TaskShape | None = None
    labels: list[str] | None = None
    instruction: str | None = None
    mapping: dict[str, str] | None = None
    mixed: bool = False
    clean: list[Literal["nfc", "control", "whitespace"]] = []
    split: SplitSection = SplitSection()
    checks: list[Check] = [Use(name=name) for name in CHECKS]
