"""The row contract: a record becomes a row, or is refused with a stable reason (MISSION D2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from planish.data import plain_dialogue
from planish.data.fault import Refused
from planish.data.fields import FIELDS
from planish.data.formats import FORMATS, Format, detect, fitting, holds
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import (
    ChatRow,
    ExtractionRow,
    LabelRow,
    Origin,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    RejectCode,
    Row,
    StepsRow,
    SummaryRow,
    TextRow,
    UnpairedRow,
    content_hash,
)

__all__ = ["Judged", "Refused", "judged", "row_from"]

ROWS: dict[str, type[Row]] = {
    "label": LabelRow,
    "chat": ChatRow,
    "prompt_completion": PromptCompletionRow,
    "text": TextRow,
    "extraction": ExtractionRow,
    "summary": SummaryRow,
    "question": QuestionRow,
    "preference": PreferenceRow,
    "unpaired": UnpairedRow,
    "steps": StepsRow,
}
_COLUMNS = {"chat": "message_columns", "extraction": "entity_columns"}
"""Under which key of `extra` a row keeps what its turns or spans hold beyond their own keys; `message_columns` for the shapes not named."""

Value = dict[str, Any]


class Judged(NamedTuple):
    """A record that holds to the contract: what its row is made of."""

    shape: str
    id: str
    origin: Origin | None  # None: where it was read; else where it was first read
    group: str | None
    extra: Value
    fields: Value

    def row(self, origin: Origin) -> Row:
        """The row; `origin` is where it was read."""
        row: Row = ROWS[self.shape](id=self.id, origin=self.origin or origin, group=self.group, extra=self.extra, **self.fields)
        return row


def row_from(
    value: Value, *, origin: Origin, shape: str | None = None, labels: Sequence[str] | None = None, group_by: str | None = None, id: str | None = None
) -> Row:
    """One record as a row, as `judged` says. Raises Refused."""
    return judged(value, shape=shape, labels=labels, group_by=group_by, id=id).row(origin)


def judged(value: Value, *, shape: str | None = None, labels: Sequence[str] | None = None, group_by: str | None = None, id: str | None = None) -> Judged:
    """One record, held to the contract. Its id is `id`, its own `id` column, or the first 16 hex digits of the hash of its trained fields. Raises Refused.

    A record of a data set's own rows.jsonl becomes the row it was: columns, origin and group. Every column that the shape does not train on is kept in `extra`,
    the group's included; null keys of single turns, which Parquet adds, are not.
    """
    stored = _stored(value) if "origin" in value and "shape" in value else None
    if stored is not None:
        value = stored.columns
    columns: Value = {}
    if stored is not None and shape in (None, stored.shape):
        made, fields, extra = stored.shape, FIELDS[stored.shape](value, labels, columns), stored.extra
        own = id or _own_id(value) or content_id(made, fields)
    else:
        known = _format(value, shape)
        content = value if known.content is None else known.content(value)
        made, fields = known.shape, FIELDS[known.shape](content, labels, columns)
        own = id or _own_id(value) or content_id(made, fields)
        # `id` has a place of its own
        extra = {key: item for key, item in value.items() if key not in known.own and (key != "id" or item is None or own != str(item))}
        if known.content is not None and "extra" in content:
            extra |= content["extra"]
    group = stored.group if stored is not None and value.get(group_by or "") is None else _group(value, group_by)
    if columns:
        extra[_COLUMNS.get(made, "message_columns")] = columns
    return Judged(made, own, stored.origin if stored is not None else None, group, extra, fields)


def content_id(shape: str, fields: Value) -> str:
    """The first 16 hex digits of `content_hash` over the shape and its fields."""
    if not plain_dialogue.is_plain(shape, fields):
        return content_hash({"shape": shape, **fields})[:16]
    return hashlib.sha256(plain_dialogue.canonical(fields["messages"]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Stored:
    """A row as `planish.data.dataset` wrote it, with its columns as they stood in the file it came from."""

    shape: str
    columns: Value
    extra: Value
    origin: Origin
    group: str | None


def _stored(value: Value) -> _Stored | None:
    """The record as a stored row, or None when it is none. Rows without a group keep none: a correction belongs to no group of the first file."""
    if not {"id", "shape", "origin", "group", "extra"} <= set(value) or not isinstance(value["extra"], dict) or value["shape"] not in ROWS:
        return None
    try:
        origin = Origin.model_validate(value["origin"])
    except ValidationError:
        return None
    own = {key: item for key, item in value.items() if key not in ("shape", "origin", "group", "extra")}
    if not set(own) >= {name for name, field in ROWS[value["shape"]].model_fields.items() if field.is_required() and name not in ("origin", "id")}:
        return None
    return _Stored(value["shape"], value["extra"] | own, value["extra"], origin, value["group"] if isinstance(value["group"], str) else None)


def _format(value: Value, shape: str | None) -> Format:
    """The format to read the record by, else the reason why it has none."""
    found = fitting(value, shape)
    if found is not None:
        return found
    wanted = [known for known in FORMATS if shape in (None, known.shape)]
    if not wanted:
        raise InputError(Problem("shape", f'unknown row shape "{shape}"', did_you_mean(str(shape), {known.shape for known in FORMATS})))
    _missing(value, [known for known in wanted if not any(holds(value, key) for key in known.never)])
    other = detect(value)
    if shape is None:
        raise Refused(RejectCode.UNKNOWN_SHAPE, f"no row shape has these keys: {_keys(value)}", _known_formats())
    what = f"is a {other.shape} row" if other else f"has the keys {_keys(value)}"
    raise Refused(RejectCode.UNKNOWN_SHAPE, f"{what} where {shape} rows are expected", f"a {shape} row needs: {' or '.join('+'.join(k.keys) for k in wanted)}")


def _missing(value: Value, wanted: Sequence[Format]) -> None:
    """Refuse a record that has a part of a format's keys for the ones it lacks: those of the format it is nearest to."""
    lacking = [(known, [key for key in known.keys if key not in value]) for known in wanted]
    near = [(known, absent) for known, absent in lacking if absent and len(absent) < len(known.keys)]
    if near:
        known, absent = min(near, key=lambda pair: len(pair[1]) / len(pair[0].keys))
        raise Refused(RejectCode.MISSING_FIELD, f"has no {' and no '.join(absent)}", f"a {known.shape} row needs: {', '.join(known.keys)}")


def _keys(value: Value) -> str:
    return ", ".join(sorted(value)[:10]) or "none"


def _known_formats() -> str:
    return "known: " + "; ".join("+".join(known.keys) for known in FORMATS)


def _own_id(value: Value) -> str | None:
    """The `id` column: text, or a whole number written as text. Anything else stays among the other columns."""
    own = value.get("id")
    if isinstance(own, bool) or not isinstance(own, str | int):
        return None
    return str(own) or None


def _group(value: Value, group_by: str | None) -> str | None:
    if group_by is None:
        return None
    group = value.get(group_by)
    if group is None or group == "":
        fix = did_you_mean(group_by, value) if group_by not in value else "give the row its group"
        raise Refused(RejectCode.MISSING_FIELD, f"has no {group_by}, by which rows are grouped", fix)
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise Refused(RejectCode.WRONG_TYPE, f"its {group_by} is a {type(group).__name__}", "a group is text or a whole number")
    return str(group)
