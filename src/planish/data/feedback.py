"""Corrections of served answers as rows of the next data set version (MISSION L5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from planish.data.contract import Refused, row_from
from planish.data.formats import Fault
from planish.data.normalise import question_key
from planish.data.split import SplitName
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.rows import LabelRow, Noun, Origin, RejectCode, RejectedRow, Row, canonical_json

FILE = "corrections.jsonl"
"""What the origin of a row made from a correction names, with the correction's 1-based place among them."""


class Correction(Noun):
    """What a person says a served request should have been answered. `text` is the user's own text, without the instruction."""

    log_id: str
    text: str
    corrected: str
    author: str = ""


class Feedback(Noun):
    """What corrections add to a data set: rows with their split, and those refused."""

    rows: tuple[LabelRow, ...]
    rejected: tuple[RejectedRow, ...]
    assignment: dict[str, SplitName]


def convert(rows: Iterable[Row], placed: Mapping[str, SplitName], task: Task, corrections: Sequence[Correction]) -> Feedback:
    """Corrections as rows of the next version: held to the same contract, without copies, each with its lineage in `extra`.

    A row whose id hashes below a half goes to the next gold set, any other to train. What asks a gold row's question is quarantined as gold_overlap; what
    repeats or contradicts a stored row, or an earlier correction, is refused too. Raises InputError when the task is not classification.
    """
    if task.shape != "classification":
        raise InputError(Problem("feedback", f"corrections of the task {task.shape} are not converted yet", "correct a classification"))
    asked: dict[bytes, Row] = {}
    for row in rows:
        if placed[row.id] == "gold":
            asked[question_key(row)] = row  # gold wins over a copy of it elsewhere
        else:
            asked.setdefault(question_key(row), row)
    taken = set(placed)
    added: list[LabelRow] = []
    rejected: list[RejectedRow] = []
    for place, correction in enumerate(corrections, start=1):
        made = _row(correction, task, place)
        fault = made if isinstance(made, Fault) else _refused(made, asked.get(question_key(made)), placed)
        if isinstance(made, LabelRow) and fault is None:
            if made.id in taken:  # a user's own id may look like this one
                made = made.model_copy(update={"id": f"{made.id}-{correction.log_id}"})
            taken.add(made.id)
            asked[question_key(made)] = made
            added.append(made)
        elif fault is not None:
            rejected.append(_rejected(place, made.id if isinstance(made, LabelRow) else None, fault, correction))
    return Feedback(rows=tuple(added), rejected=tuple(rejected), assignment={row.id: _half(row.id) for row in added})


def _row(correction: Correction, task: Task, place: int) -> LabelRow | Fault:
    value = {"text": correction.text, "label": correction.corrected, "log_id": correction.log_id, "author": correction.author}
    origin = Origin(file=FILE, line=place, sha256=hashlib.sha256(_raw(correction).encode()).hexdigest())
    try:
        row = row_from(value, origin=origin, shape="label", labels=task.labels)
    except Refused as refused:
        return refused.fault
    assert isinstance(row, LabelRow)
    return row


def _refused(row: LabelRow, other: Row | None, placed: Mapping[str, SplitName]) -> Fault | None:
    """Why a correction is no new row, given the row that already asks its question."""
    if other is None:
        return None
    if placed.get(other.id) == "gold":
        return Fault(RejectCode.GOLD_OVERLAP, f"asks what gold row {other.id} asks: quarantined", "correct the gold set itself, as a new version")
    if isinstance(other, LabelRow) and other.label == row.label:
        return Fault(RejectCode.DUPLICATE, f"repeats row {other.id}", "none needed: the first is kept")
    return Fault(RejectCode.LABEL_CONFLICT, f"contradicts row {other.id}", "decide which label is right, and mend the row")


def _half(row_id: str) -> SplitName:
    return "gold" if int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big") / 2**64 < 0.5 else "train"


def _raw(correction: Correction) -> str:
    return canonical_json(correction.model_dump(mode="json"))


def _rejected(place: int, row_id: str | None, fault: Fault, correction: Correction) -> RejectedRow:
    return RejectedRow(file=FILE, line=place, row_id=row_id, code=fault.code, why=fault.why, fix=fault.fix, raw=_raw(correction))
