"""`planish convert`: any format written from any other where nothing is lost, and what would be lost said first (MISSION D1).

Whether a record lost something is not assumed: it is read again, by the reader that will read it, and compared with the row.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from planish.data import output
from planish.data.contract import Refused, row_from
from planish.data.formats import FORMATS, Fault, read_records
from planish.data.reshape import REACHABLE, reshape
from planish.data.written import PLACES, TARGETS
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import Noun, Origin, Row, canonical_json

Value = dict[str, Any]


class Converted(Noun):
    """What a conversion did. `lost` counts rows by what they lost; `dropped` counts rows that could not be written, by the reason."""

    n_in: int
    n_out: int
    lost: dict[str, int] = {}
    dropped: dict[str, int] = {}


class Written(NamedTuple):
    """The records that a row becomes, and what they lost. No records: the row is dropped, for the reasons in `lost`."""

    values: tuple[Value, ...]
    lost: tuple[str, ...] = ()


def convert(source: Path | str, to: str, out: Path, *, lossy: bool = False) -> Converted:
    """Write the rows of `source` to `out` in the format `to`; the container is known by the name of `out`, which appears only whole.

    Raises InputError when the format or container is unknown, rows of a shape cannot be written in it, or something would be lost and `lossy` is false.
    """
    if to not in TARGETS:
        raise InputError(Problem("--to", f'unknown format "{to}"', did_you_mean(to, TARGETS)))
    output.check(out)
    lost: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    n_in = n_out = 0
    with tempfile.TemporaryFile() as spool:
        for n_in, record in enumerate(read_records(source), start=1):  # noqa: B007
            written = _record(record.value, to, Origin(file=record.file, line=record.line, sha256=record.sha256), source)
            (lost if written.values else dropped).update(written.lost)
            for value in written.values:
                n_out += 1
                lost.update(f"the type of {key}" for key in output.retyped(out, value))
                spool.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        if (lost or dropped) and not lossy:
            raise InputError(*_losses(source, to, n_in, lost, dropped))
        if not n_out:
            raise InputError(Problem(str(source), f"no row can be written as {to}: {_counts(dropped)}", "choose another format"))
        output.write(out, lambda: _values(spool))
    return Converted(n_in=n_in, n_out=n_out, lost=dict(sorted(lost.items())), dropped=dict(sorted(dropped.items())))


def _values(spool: IO[bytes]) -> Iterator[Value]:
    spool.seek(0)
    yield from map(json.loads, spool)


def _record(value: Value | Fault, to: str, origin: Origin, source: Path | str) -> Written:
    if isinstance(value, Fault):
        return Written((), (f"refused: {value.code.value}",))
    try:
        row = row_from(value, origin=origin)
    except Refused as refused:
        return Written((), (f"refused: {refused.fault.code.value}",))
    shapes = TARGETS[to].shapes
    if row.shape not in shapes and shapes[0] not in REACHABLE.get(row.shape, ()):
        can = [name for name, target in TARGETS.items() if row.shape in target.shapes or target.shapes[0] in REACHABLE.get(row.shape, ())]
        raise InputError(Problem(f"{source}:{origin.line}", f"a {row.shape} row cannot be written as {to}", f"it can be written as: {', '.join(can)}"))
    return write(row, to, own_id=value.get("id") is not None)


def write(row: Row, to: str, *, own_id: bool = False) -> Written:
    """The row as records of the format `to`, each read again, so that `lost` names whatever is not in it. `own_id`: its id is a column and no hash."""
    shapes = TARGETS[to].shapes
    reshaped = reshape(row, row.shape if row.shape in shapes else shapes[0])
    values, lost = [], set(reshaped.lost)
    for one in reshaped.rows:
        value, gone = _one(one, to, own_id=own_id and len(reshaped.rows) == 1)
        if value is None:
            return Written((), (f"a row that {to} has no words for",))
        values.append(value)
        lost |= gone
    if own_id and len(values) > 1:
        lost.add("id")
    return Written(tuple(values), tuple(sorted(lost)))


def _one(row: Row, to: str, *, own_id: bool) -> tuple[Value | None, set[str]]:
    fields = TARGETS[to].write(row)
    if fields is None:
        return None, set()
    extra = {key: item for key, item in row.extra.items() if key != PLACES.get(to)}
    value = ({"id": row.id} if own_id else {}) | extra | fields
    again = _again(value, row)
    if again is None:  # a column that some format means something by makes another row of it
        meant = {key for known in FORMATS for key in (*known.keys, *known.reads)}
        value = ({"id": row.id} if own_id else {}) | {key: item for key, item in extra.items() if key not in meant} | fields
        again = _again(value, row)
        if again is None:
            return None, set()
    lost = {f"column {key}" for key, item in row.extra.items() if key not in again.extra or canonical_json(again.extra[key]) != canonical_json(item)}
    for name in type(row).model_fields:
        if name not in ("id", "origin", "group", "extra") and getattr(again, name) != getattr(row, name):
            lost |= _differences(name, getattr(row, name), getattr(again, name))
    if row.group is not None and row.group not in map(str, row.extra.values()):
        lost.add("group")
    return value, lost


def _again(value: Value, row: Row) -> Row | None:
    """The record read as rows are read, or None when it is no row of the same shape."""
    try:
        again = row_from(value, origin=row.origin)
    except Refused:
        return None
    return again if again.shape == row.shape else None


def _differences(name: str, was: Any, is_now: Any) -> set[str]:
    """What of a field is gone: of messages the keys that differ, of anything else the field."""
    if isinstance(was, tuple) and isinstance(is_now, tuple) and len(was) == len(is_now) and all(isinstance(one, Noun) for one in was):
        pairs = zip(was, is_now, strict=True)
        return {key for a, b in pairs for key in type(a).model_fields if getattr(a, key) != getattr(b, key)}
    return {name}


def _losses(source: Path | str, to: str, n_in: int, lost: Counter[str], dropped: Counter[str]) -> Iterator[Problem]:
    if lost:
        why = f"written as {to}, rows would lose: {_counts(lost)} (of {n_in} rows)"
        yield Problem(str(source), why, "choose a format that has a place for it, or give --lossy")
    if dropped:
        yield Problem(
            str(source),
            f"rows that cannot be written as {to}: {_counts(dropped)} (of {n_in} rows)",
            f"mend them (planish check {source} names each), or give --lossy to leave them out",
        )


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in sorted(counts.items())) or "none"
