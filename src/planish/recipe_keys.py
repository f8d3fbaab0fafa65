"""What a recipe's keys are made of: blocks that refuse unknown keys, techniques with their options, durations, sizes and rules (MISSION X2)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from planish import rules
from planish.errors import InputError


class Section(BaseModel):
    """A block of the recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Use(Section):
    """A technique with its options: `lora`, or `{lora: {r: 16}}`."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given}
        if isinstance(given, dict) and "name" in given and set(given) <= {"name", "options"}:
            return given
        if isinstance(given, dict) and len(given) == 1:
            (name, options), *_ = given.items()
            if isinstance(options, dict) or options is None:
                return {"name": name, "options": options or {}}
        raise ValueError("write a name, or one name with its options: {name: {key: value}}")


Check = Annotated[Use, Field(json_schema_extra={"shelf": "checks"})]
Objective = Annotated[Use, Field(json_schema_extra={"shelf": "objectives"})]
Adapter = Annotated[Use, Field(json_schema_extra={"shelf": "adapters"})]
Solver = Annotated[Use, Field(json_schema_extra={"shelf": "solvers"})]
Scorer = Annotated[Use, Field(json_schema_extra={"shelf": "scorers"})]
Exporter = Annotated[Use, Field(json_schema_extra={"shelf": "exporters"})]
EngineUse = Annotated[Use, Field(json_schema_extra={"shelf": "engines"})]
Detector = Annotated[Use, Field(json_schema_extra={"shelf": "detectors"})]


def _duration(given: Any) -> int:
    """Seconds from `30s`, `15m`, `6h`, `1d`, or a number of seconds."""
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    match = re.fullmatch(r"(\d+)\s*([smhd])", str(given).strip())
    if not match or int(match[1]) == 0:
        raise ValueError("a duration is a number with s, m, h or d: 1d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def bytes_of(given: Any) -> int:
    """Bytes from `6 GB`, `512MB`, `2 GiB`, or a number of bytes. Raises ValueError for anything else."""
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GiB|MB|MiB)", str(given).strip(), re.IGNORECASE)
    size = int(float(match[1]) * {"gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20}[match[2].lower()]) if match else 0
    if size == 0:
        raise ValueError("a size is a number with GB, GiB, MB or MiB: 6 GB")
    return size


def _rule(given: Any) -> str:
    try:
        rules.parse(str(given))
    except InputError as refused:
        raise ValueError(f"{refused.problems[0].why}\n{refused.problems[0].fix}") from None
    return str(given)


Duration = Annotated[int, BeforeValidator(_duration)]
Rule = Annotated[str, BeforeValidator(_rule)]
Bytes = Annotated[int, BeforeValidator(bytes_of)]
Share = Annotated[float, Field(ge=0, lt=1)]
