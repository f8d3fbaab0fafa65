"""Corrections of served answers as rows of the next data set version (MISSION L5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from planish.data.answers import as_json
from planish.data.citations import passages
from planish.data.contract import Refused, row_from
from planish.data.formats import Fault
from planish.data.normalise import question_key
from planish.data.said_calls import said_calls
from planish.data.split import SplitName
from planish.data.task import Task, numbered
from planish.data.written import turn, turns
from planish.rows import Message, Noun, Origin, PreferenceRow, RejectCode, RejectedRow, Row, canonical_json

FILE = "corrections.jsonl"
"""What the origin of a row made from a correction names, with the correction's 1-based place among them."""


class Correction(Noun):
    """What a person says a served request should have been answered. `text` is the user's own text, without the instruction.

    For a task of dialogues: the `messages` that were asked, the `tools` on offer, and what was `served`, which the better answer of a pair is set against.
    """

    log_id: str
    text: str
    corrected: str
    author: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    served: str = ""


class Feedback(Noun):
    """What corrections add to a data set: rows with their split, and those refused."""

    rows: tuple[Row, ...]
    rejected: tuple[RejectedRow, ...]
    assignment: dict[str, SplitName]


def convert(rows: Iterable[Row], placed: Mapping[str, SplitName], task: Task, corrections: Sequence[Correction]) -> Feedback:
    """Corrections as rows of the next version: held to the same contract, without copies, each with its lineage in `extra`.

    A row whose id hashes below a half goes to the next gold set, any other to train. What asks a gold row's question is quarantined as gold_overlap; what
    repeats or contradicts a stored row, or an earlier correction, is refused too.
    """
    asked: dict[bytes, Row] = {}
    for row in rows:
        if placed[row.id] == "gold":
            asked[question_key(row)] = row  # gold wins over a copy of it elsewhere
        else:
            asked.setdefault(question_key(row), row)
    taken = set(placed)
    added: list[Row] = []
    rejected: list[RejectedRow] = []
    for place, correction in enumerate(corrections, start=1):
        made = _row(correction, task, place)
        fault = made if isinstance(made, Fault) else _refused(made, asked.get(question_key(made)), placed, task)
        if fault is not None:
            rejected.append(_rejected(place, None if isinstance(made, Fault) else made.id, fault, correction))
        elif not isinstance(made, Fault):
            if made.id in taken:  # a user's own id may look like this one
                made = made.model_copy(update={"id": f"{made.id}-{correction.log_id}"})
            taken.add(made.id)
            asked[question_key(made)] = made
            added.append(made)
    return Feedback(rows=tuple(added), rejected=tuple(rejected), assignment={row.id: _half(row.id) for row in added})


def _row(correction: Correction, task: Task, place: int) -> Row | Fault:
    origin = Origin(file=FILE, line=place, sha256=hashlib.sha256(_raw(correction).encode()).hexdigest())
    try:
        shape, value = _record(correction, task)
        return row_from(value | {"log_id": correction.log_id, "author": correction.author}, origin=origin, shape=shape, labels=task.labels or None)
    except Refused as refused:
        return refused.fault


def _record(correction: Correction, task: Task) -> tuple[str, dict[str, Any]]:
    """The correction as a record of the row shape that its task is asked from. Raises Refused."""
    text, right = correction.text, correction.corrected
    match task.shape:
        case "classification":
            return "label", {"text": text, "label": right}
        case "qa":
            documents = list(passages([text]).values())
            question = text.removeprefix(f"{numbered(documents)}\n\n")
            return "question", {"question": question, "answer": right} | ({"documents": documents} if documents and question != text else {})
        case "extraction":
            return "extraction", {"text": text, **_extracted(text, right)}
        case "summarization":
            return "summary", {"document": text, "summary": right}
        case "reasoning":
            return "prompt_completion", {"prompt": text, "completion": right}
    history = turns(correction.messages)
    tools = {"tools": list(correction.tools)} if correction.tools else {}
    if task.shape == "preference":
        return "preference", {"prompt": history, "chosen": [_answer(right)], "rejected": [_answer(correction.served)], **tools}
    return "chat", {"messages": [*history, _answer(right)], **tools}


def _answer(text: str) -> dict[str, Any]:
    """An assistant's turn: the calls that a text makes as calls, any other as it is."""
    calls = said_calls(text).calls
    return turn(Message(role="assistant", content="" if calls else text, tool_calls=calls))


def _extracted(text: str, right: str) -> dict[str, Any]:
    """Fields as they are; entities where they stand in the text, each looked for behind the one before of its words. Raises Refused."""
    try:
        value = as_json(right, fenced=True)
    except ValueError as broken:
        raise Refused(RejectCode.BAD_JSON, f"the corrected answer is not JSON: {broken}", "write it as the model should have") from broken
    if isinstance(value, dict):
        return {"fields": value}
    entities = []
    behind: dict[str, int] = {}
    for item in value if isinstance(value, list) else [value]:
        words = item.get("text") if isinstance(item, dict) else None
        start = text.find(words, behind.get(words, 0)) if isinstance(words, str) and words else -1
        if start < 0 or not isinstance(words, str):
            raise Refused(
                RejectCode.SPAN_OUT_OF_RANGE, f"{canonical_json(item)} does not stand in the text", 'write {"type": ..., "text": ...} with words of the text'
            )
        behind[words] = start + len(words)
        entities.append({"type": item.get("type"), "start": start, "end": start + len(words)})
    return {"entities": entities}


def _refused(row: Row, other: Row | None, placed: Mapping[str, SplitName], task: Task) -> Fault | None:
    """Why a correction is no new row, given the row that already asks its question. Several pairs of answers to one question are no contradiction."""
    if other is None:
        return None
    if placed.get(other.id) == "gold":
        return Fault(RejectCode.GOLD_OVERLAP, f"asks what gold row {other.id} asks: quarantined", "correct the gold set itself, as a new version")
    if isinstance(row, PreferenceRow) and isinstance(other, PreferenceRow) and (row.chosen, row.rejected) != (other.chosen, other.rejected):
        return None
    if task.asked(other).target == task.asked(row).target:
        return Fault(RejectCode.DUPLICATE, f"repeats row {other.id}", "none needed: the first is kept")
    return Fault(RejectCode.LABEL_CONFLICT, f"contradicts row {other.id}", "decide which answer is right, and mend the row")


def _half(row_id: str) -> SplitName:
    return "gold" if int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big") / 2**64 < 0.5 else "train"


def _raw(correction: Correction) -> str:
    return canonical_json(correction.model_dump(mode="json", exclude_defaults=True))


def _rejected(place: int, row_id: str | None, fault: Fault, correction: Correction) -> RejectedRow:
    return RejectedRow(file=FILE, line=place, row_id=row_id, code=fault.code, why=fault.why, fix=fault.fix, raw=_raw(correction))
