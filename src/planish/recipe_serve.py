"""What a recipe says of production: the endpoint, how often the gold set is asked of it again, and how its rows come back as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from planish.recipe_keys import Detector, Duration, EngineUse, Section, Use


class ServeSection(Section):
    """The endpoint. It binds to the loopback address unless told otherwise."""

    engine: EngineUse = Use(name="llamacpp")
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    queue: Annotated[int, Field(ge=0)] = 64
    log_content: bool = True


class ObserveSection(Section):
    """How often the gold set is asked again of the live endpoint."""

    every: Duration = 86400
    detectors: list[Detector] = [Use(name="gold_rerun")]


class FeedbackSection(Section):
    """How production rows become the next dataset version."""

    rows_per_day: Annotated[int, Field(gt=0)] = 200
    redact: bool = True
    corrections: Path | None = None
