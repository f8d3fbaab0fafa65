"""What a check says: about single rows, and in figures about all of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from planish.rows import NoteCode, Noun, RejectCode


class Finding(Noun):
    """One defect of one row, or of the data set as a whole (`row_id` None). `reject` sets the row aside; `warn` is counted and shown, and the row stays."""

    row_id: str | None
    code: RejectCode | NoteCode
    severity: Literal["reject", "warn"]
    why: str
    fix: str
    see: str | None = None  # the id of the row this one repeats, contradicts or leaks

    @model_validator(mode="after")
    def _rejects_a_row(self) -> Finding:
        if self.severity == "reject" and (self.row_id is None or isinstance(self.code, NoteCode)):
            raise ValueError(f"{self.code} cannot set a row aside: a rejection names a row and has a reject code")
        return self


class CheckResult(Noun):
    """Everything a check found. `figures` holds plain JSON: what it counted over all rows, whether or not any row is at fault.

    `together` are clusters of row ids that a split must not separate.
    """

    findings: tuple[Finding, ...] = ()
    figures: dict[str, Any] = {}
    together: tuple[tuple[str, ...], ...] = ()
