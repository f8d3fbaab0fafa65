"""The evaluate section of a recipe: how answers are made and judged, and the form that they must have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from planish.recipe_keys import Rule, Scorer, Section


class ConstraintSection(Section):
    """The form that every answer must have; one of the four (MISSION E3). What cannot be held is refused by name before anything is asked."""

    choice: list[str] | None = None
    regex: str | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> ConstraintSection:
        if len(self.model_dump(exclude_none=True)) != 1:  # a stored recipe names the other three, as null
            raise ValueError("give exactly one of choice, regex, json_schema and grammar")
        return self


class DecodingSection(Section):
    """How answers are made, the same in baselines, evaluation, compression and serving; what is left out is the task's own. `temperature` 0 is greedy (MISSION E2)."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    constraint: ConstraintSection | None = None


class EvaluateSection(Section):
    """How answers are judged, by the task's own scorer where none is named, and the text on which general ability is measured before and after."""

    scorers: list[Scorer] = []
    general: list[Literal["held_out_text", "chat_exchanges", "reasoning", "instructions"]] = ["held_out_text", "chat_exchanges"]
    general_rows: Path | None = None
    general_tasks: list[str] = []
    decoding: DecodingSection = DecodingSection()
    screen: Rule | None = None
