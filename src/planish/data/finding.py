"""What a check says about a row."""

from __future__ import annotations

from typing import Literal

from planish.rows import Noun, RejectCode


class Finding(Noun):
    """One defect of one row. `reject` sets the row aside; `warn` is counted and shown, and the row stays."""

    row_id: str
    code: RejectCode
    severity: Literal["reject", "warn"]
    why: str
    fix: str
    see: str | None = None  # the id of the row this one repeats, contradicts or leaks
