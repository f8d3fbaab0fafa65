"""What planish says when something is wrong: where, why, and the fix; every problem of one input at once.

PlanishError
├── InputError      exit 2: the input or the recipe is wrong and nothing was run
├── MissingExtra    exit 2: an optional package is absent; names the install command
├── RunFailed       exit 1: it failed while running; the reason code is kept on the event
└── GateRefused     exit 3: a gate said no
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `where` is a file with a 1-based line, a row id or a recipe key."""

    where: str
    why: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.why}" + (f"\n  fix: {self.fix}" if self.fix else "")


class PlanishError(Exception):
    """Base of every error planish raises on purpose; `exit_code` is the command line's status."""

    exit_code = 1

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class InputError(PlanishError):
    """The input or the recipe is wrong; nothing was run."""

    exit_code = 2


class MissingExtra(PlanishError):
    """An optional package is not installed."""

    exit_code = 2


class RunFailed(PlanishError):
    """A stage failed while running. `reason_code` is a member of `planish.events.ReasonCode`."""

    exit_code = 1

    def __init__(self, *problems: Problem, reason_code: str = "stage_failed") -> None:
        super().__init__(*problems)
        self.reason_code = reason_code


class GateRefused(PlanishError):
    """A gate said no; the run stopped behind it."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a fix line, or the list of known names when none is near."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f'did you mean "{near[0]}"?' if near else "known: " + ", ".join(choices)
