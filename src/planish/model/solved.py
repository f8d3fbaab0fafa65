"""What a solver hands back when it has more to say than its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from planish.model.asker import Answer
from planish.scores import Metric


class Solved(NamedTuple):
    """One answer per sample, the solver's own figures (named without the solver), and what the report is to say in words."""

    answers: Sequence[Answer | str | None]
    metrics: Mapping[str, Metric] = {}
    details: Mapping[str, str] = {}
