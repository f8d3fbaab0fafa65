"""When rows were made, as numbers: a split by time must not take "10" for less than "9", nor 2/1/2024 for later than 12/1/2023 (MISSION D8)."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from planish.errors import InputError, Problem

SHOWN = 20
"""How many rows an error lists."""

_MONTH = re.compile(r"\d{4}-\d\d")


def moments(given: Mapping[str, Any], where: str) -> dict[str, float]:
    """Row id -> its time: a number, the text of one, or an ISO 8601 date (without a zone: UTC) in seconds. Rows without any (null, an empty cell) are left out.

    Raises InputError naming the rows whose time is none of these, and where some are numbers and others dates.
    """
    held = {row_id: item for row_id, item in given.items() if item is not None and item != ""}
    read = {row_id: _moment(item) for row_id, item in held.items()}
    strange = [row_id for row_id, moment in read.items() if moment is None]
    if strange:
        fix = "write dates as 2024-05-17 or 2024-05-17T09:30:00, or as numbers that grow with time"
        raise InputError(*(Problem(where, f"row {row_id}: {held[row_id]!r} is no time that can be compared", fix) for row_id in strange[:SHOWN]))
    first: dict[str, str] = {}
    for row_id, moment in read.items():
        first.setdefault(moment[0] if moment else "", row_id)
    if len(first) > 1:
        told = " and ".join(f"{kind}s ({held[row_id]!r} in row {row_id})" for kind, row_id in sorted(first.items()))
        raise InputError(Problem(where, f"holds {told}", "write all times alike"))
    return {row_id: moment[1] for row_id, moment in read.items() if moment}


def _moment(item: Any) -> tuple[str, float] | None:
    """Whether it is a number or a date, and its value."""
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        return None
    try:
        number = float(item)
    except (ValueError, OverflowError):
        return _date(str(item).strip())
    return ("number", number) if math.isfinite(number) else None


def _date(text: str) -> tuple[str, float] | None:
    try:
        read = datetime.datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text)
    except ValueError:
        return None
    zoned = read if read.tzinfo is not None else read.replace(tzinfo=datetime.UTC)
    return "date", (zoned - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds()
