"""What a capture is asked to be, and how one row's failure is kept from the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from planish.errors import InputError, PlanishError
from planish.model.template import Refused

T = TypeVar("T")


@dataclass(frozen=True)
class How:
    """What a capture is asked to be. `teacher` is a model's name or folder, or an endpoint's address with `model` behind it."""

    teacher: str
    model: str | None = None
    answers: Literal["rows", "teacher"] = "rows"
    k: int = 50
    mass: float = 0.999
    least: float = 0.0  # in the compact file: less likely tokens stand in the lines alone
    temperatures: tuple[float, ...] = (1.0, 2.0)
    tail_samples: int = 0
    max_new_tokens: int = 256
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    parallel: int = 8
    key_env: str = "PLANISH_API_KEY"
    allow_private: bool = False
    rows: int | None = None
    vocabulary: int | None = None  # logits of the student, where a teacher of its tokens may have more
    align: bool = False  # a local teacher of other tokens is read where they are the student's too

    @property
    def remote(self) -> bool:
        """Whether the teacher is an endpoint."""
        return self.teacher.startswith(("http://", "https://"))


def isolated(work: Callable[[], T]) -> T | PlanishError | Refused:
    """What it gives, or why it failed: one row's failure is no other's."""
    try:
        return work()
    except InputError:
        raise
    except (PlanishError, Refused) as why:
        return why
