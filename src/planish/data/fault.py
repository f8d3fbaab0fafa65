"""Why a record of a file is no row: a stable code, the reason, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from planish.rows import RejectCode


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record is no row."""

    code: RejectCode
    why: str
    fix: str


class Refused(Exception):
    """A row is refused; carries the code, why and the fix."""

    def __init__(self, code: RejectCode, why: str, fix: str) -> None:
        super().__init__(why)
        self.fault = Fault(code, why, fix)
