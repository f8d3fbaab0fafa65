"""Corrections of served answers as rows of the next data set version (MISSION L5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from planish.data.contract import Refused, row_from
from planish.data.formats import Fault
from planish.data.normalise import input_key
from planish.data.request_log import Correction, LogRecord
from planish.data.split import SplitName
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.rows import LabelRow, Noun, Origin, RejectCode, RejectedRow, Row, canonical_json

FILE = "corrections.jsonl"
"""Where the origin of a row made from a correction points, with the correction's 1-based place."""


class CorrectedText(Noun):
    """What a person says a served request should have been answered. `text` is the user's own text, without the instruction."""

    log_id: str
    text: str
    corrected: str
    author: str = ""
    place: int = 0  # 1-based among the corrections as given; 0: its place in the list it comes in


class Feedback(Noun):
    """What corrections add to a data set: rows with their split, and those refused."""

    rows: tuple[LabelRow, ...]
    rejected: tuple[RejectedRow, ...]
    assignment: dict[str, SplitName]


def joined(records: Iterable[LogRecord], corrections: Sequence[Correction], task: Task) -> tuple[list[CorrectedText], list[RejectedRow]]:
    """Each correction with the text of the request it corrects, and the corrections that cannot be used. Of several for one request the last counts."""
    requests = {record.id: record for record in records}
    last = {correction.log_id: place for place, correction in enumerate(corrections, start=1)}
    usable: list[CorrectedText] = []
    refused: list[RejectedRow] = []
    for place, correction in enumerate(corrections, start=1):
        found = _asked_text(requests.get(correction.log_id), task)
        if last[correction.log_id] != place:
            found = Fault(RejectCode.DUPLICATE, f"a later correction of request {correction.log_id} replaces it", "none needed: the last one counts")
        if isinstance(found, Fault):
            refused.append(_rejected(place, None, found, correction))
        else:
            usable.append(CorrectedText(log_id=correction.log_id, text=found, corrected=correction.corrected, place=place))
    return usable, refused


def convert(rows: Iterable[Row], placed: Mapping[str, SplitName], task: Task, corrections: Sequence[CorrectedText]) -> Feedback:
    """Corrections as rows of the next version: held to the same contract, without copies, each with its lineage in `extra`.

    A row whose id hashes below a half goes to the next gold set, any other to train. What asks a gold row's question is quarantined as gold_overlap; what
    repeats or contradicts a stored row, or an earlier correction, is refused too. Raises InputError when the task is not classification.
    """
    if task.shape != "classification":
        raise InputError(Problem("feedback", f"corrections of the task {task.shape} are not converted yet", "correct a classification"))
    asked: dict[str, Row] = {}
    for row in rows:
        if placed[row.id] == "gold":
            asked[input_key(row)] = row  # gold wins over a copy of it elsewhere
        else:
            asked.setdefault(input_key(row), row)
    taken = set(placed)
    added: list[LabelRow] = []
    rejected: list[RejectedRow] = []
    for index, correction in enumerate(corrections, start=1):
        place = correction.place or index
        made = _row(correction, task, place)
        fault = made if isinstance(made, Fault) else _refused(made, asked.get(input_key(made)), placed)
        if isinstance(made, LabelRow) and fault is None:
            if made.id in taken:  # a user's own id may look like this one
                made = made.model_copy(update={"id": f"{made.id}-{correction.log_id}"})
            taken.add(made.id)
            asked[input_key(made)] = made
            added.append(made)
        elif fault is not None:
            rejected.append(_rejected(place, made.id if isinstance(made, LabelRow) else None, fault, correction))
    return Feedback(rows=tuple(added), rejected=tuple(rejected), assignment={row.id: _half(row.id) for row in added})


def _asked_text(record: LogRecord | None, task: Task) -> str | Fault:
    """What the user wrote, without the instruction."""
    if record is None:
        return Fault(RejectCode.MISSING_FIELD, "no logged request has this log_id", "take the id of an answer that this deployment gave")
    if record.content is None:
        return Fault(RejectCode.MISSING_FIELD, "the content of this request was not kept", "only requests logged with their content can be corrected")
    turns = record.content.get("messages") or [{"role": "user", "content": record.content.get("prompt")}]
    said = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    if not said or not isinstance(said[-1], str):
        return Fault(RejectCode.MISSING_FIELD, "the request has no text of a user", "only requests with a user's text can be corrected")
    return task.text_of(said[-1])


def _row(correction: CorrectedText, task: Task, place: int) -> LabelRow | Fault:
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


def _raw(correction: Noun) -> str:
    return canonical_json(correction.model_dump(mode="json", exclude={"place"}))


def _rejected(place: int, row_id: str | None, fault: Fault, correction: Noun) -> RejectedRow:
    return RejectedRow(file=FILE, line=place, row_id=row_id, code=fault.code, why=fault.why, fix=fault.fix, raw=_raw(correction))
