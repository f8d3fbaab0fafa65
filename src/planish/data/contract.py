"""The row contract: every row of a file is accepted, or rejected with a stable reason and kept aside (MISSION D2).

`n_in = n_accepted + n_rejected`, always.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planish.data.finding import Finding
from planish.data.formats import FORMATS, Fault, Format, detect, holds, read_records
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import MALFORMED, ChatRow, LabelRow, Message, Origin, PromptCompletionRow, RejectCode, RejectedRow, Row, TextRow, content_hash

MALFORMED_SHARE = 0.05
"""More malformed lines than this share stop the stage: the file is not what its reader takes it for."""

SHOWN = 20
"""How many bad lines an error lists."""

_ROLES = ("system", "user", "assistant", "tool")
_UNREAD = ("tool_calls", "tool_call_id", "function_call", "name")
"""Message keys that change what is trained and that no row shape carries yet: refused rather than dropped."""


class Refused(Exception):
    """A row is refused; carries the code, why and the fix."""

    def __init__(self, code: RejectCode, why: str, fix: str) -> None:
        super().__init__(why)
        self.fault = Fault(code, why, fix)


@dataclass(frozen=True)
class Reading:
    """What a file held. `raw` has the raw text of each accepted row by id, so that a row set aside later keeps it."""

    file: str
    n_in: int
    accepted: tuple[Row, ...]
    rejected: tuple[RejectedRow, ...]
    raw: Mapping[str, str]
    labels: tuple[str, ...] = ()  # as declared, else as found, sorted

    @property
    def counts(self) -> dict[str, int]:
        """n_in, n_accepted, n_rejected, and one count per reject code that occurred."""
        codes = Counter(row.code.value for row in self.rejected)
        return {"n_in": self.n_in, "n_accepted": len(self.accepted), "n_rejected": len(self.rejected), **dict(sorted(codes.items()))}

    def set_aside(self, findings: Iterable[Finding]) -> Reading:
        """The reading with the rows of `reject` findings moved to the rejected; of several findings on one row the first counts."""
        first: dict[str, Finding] = {}
        for finding in findings:
            if finding.severity == "reject":
                first.setdefault(finding.row_id, finding)
        moved = tuple(rejected_row(row, first[row.id], self.raw.get(row.id, "")) for row in self.accepted if row.id in first)
        return replace(self, accepted=tuple(row for row in self.accepted if row.id not in first), rejected=self.rejected + moved)


class TooManyMalformed(InputError):
    """More than 5 % of the lines are malformed. `reading` has every row, so that the stage can keep `rejected.jsonl`."""

    def __init__(self, reading: Reading, *problems: Problem) -> None:
        super().__init__(*problems)
        self.reading = reading


def read_rows(path: Path, *, shape: str | None = None, labels: Sequence[str] | None = None, group_by: str | None = None, mixed: bool = False) -> Reading:
    """Read a file and hold every row to the contract.

    `shape` is the shape that rows must have (None: by their keys); `labels` the declared set; `group_by` the column that no split may cut.
    Raises InputError when the file cannot be read, when its rows have several shapes and `mixed` is false, and TooManyMalformed above 5 % malformed lines.
    """
    accepted: list[Row] = []
    rejected: list[RejectedRow] = []
    raw: dict[str, str] = {}
    n_in = 0
    for record in read_records(path):
        n_in += 1
        origin = Origin(file=path.name, line=record.line, sha256=record.sha256)
        fault = record.value
        if not isinstance(fault, Fault):
            try:
                row = row_from(fault, origin=origin, shape=shape, labels=labels, group_by=group_by)
            except Refused as refused:
                fault = refused.fault
                row_id = _own_id(record.value)
            else:
                row = _with_own_id(row, raw)
                accepted.append(row)
                raw[row.id] = record.raw
                continue
        else:
            row_id = None
        rejected.append(RejectedRow(file=path.name, line=record.line, row_id=row_id, code=fault.code, why=fault.why, fix=fault.fix, raw=record.raw))
    found = sorted({row.label for row in accepted if isinstance(row, LabelRow)})
    reading = Reading(path.name, n_in, tuple(accepted), tuple(rejected), raw, tuple(labels) if labels is not None else tuple(found))
    _refuse_file(path, reading, mixed)
    return reading


def row_from(
    value: dict[str, Any], *, origin: Origin, shape: str | None = None, labels: Sequence[str] | None = None, group_by: str | None = None, id: str | None = None
) -> Row:
    """One record as a row. Its id is `id`, its own `id` column, or the first 16 hex digits of the hash of its trained fields. Raises Refused.

    A record of a data set's own rows.jsonl becomes the row it was: columns, origin and group.
    """
    stored = _stored(value)
    if stored is not None:
        value, origin = stored.columns, stored.origin
    known = _format(value, shape)
    content = known.convert(value)
    fields = _FIELDS[known.shape](content, labels)
    group = stored.group if stored is not None and value.get(group_by or "") is None else _group(value, group_by)
    own = id or _own_id(value) or content_hash({"shape": known.shape, **fields})[:16]
    # Every column the shape does not train on is kept, the group's included; only `id` has a place of its own.
    extra = {key: item for key, item in content.items() if key not in known.keys and (key != "id" or item is None or own != str(item))}
    if known.shape == "chat":
        extra |= _message_extra(content["messages"])
        fields = {"messages": tuple(Message(**message) for message in fields["messages"])}
    row: Row = _ROWS[known.shape](id=own, origin=origin, group=group, extra=extra, **fields)
    return row


def rejected_row(row: Row, finding: Finding, raw: str) -> RejectedRow:
    """An accepted row that a check set aside."""
    return RejectedRow(file=row.origin.file, line=row.origin.line, row_id=row.id, code=finding.code, why=finding.why, fix=finding.fix, raw=raw)


@dataclass(frozen=True)
class _Stored:
    """A row as `planish.data.dataset` wrote it, with its columns as they stood in the file it came from."""

    columns: dict[str, Any]
    origin: Origin
    group: str | None


def _stored(value: dict[str, Any]) -> _Stored | None:
    """The record as a stored row, or None when it is none. Rows without a group keep none: a correction belongs to no group of the first file."""
    if not {"id", "shape", "origin", "group", "extra"} <= set(value) or not isinstance(value["extra"], dict):
        return None
    try:
        origin = Origin.model_validate(value["origin"])
    except ValidationError:
        return None
    own = {key: item for key, item in value.items() if key not in ("shape", "origin", "group", "extra")}
    return _Stored(value["extra"] | own, origin, value["group"] if isinstance(value["group"], str) else None)


def _format(value: dict[str, Any], shape: str | None) -> Format:
    """The format to read the record by: the wanted one where its keys stand, else the reason why it cannot be."""
    found = detect(value)
    if shape is None:
        if found is None:
            raise Refused(RejectCode.UNKNOWN_SHAPE, f"no row shape has these keys: {_keys(value)}", _known_formats())
        return found
    wanted = [known for known in FORMATS if known.shape == shape]
    if not wanted:
        raise InputError(Problem("shape", f'unknown row shape "{shape}"', did_you_mean(shape, {known.shape for known in FORMATS})))
    for known in wanted:
        if all(key in value for key in known.keys) and (shape == "text" or not any(holds(value, key) for key in known.never)):
            return known
    if found is None or found.shape != shape:
        for known in wanted:
            missing = [key for key in known.keys if key not in value]
            if missing and len(missing) < len(known.keys):
                raise Refused(RejectCode.MISSING_FIELD, f"has no {' and no '.join(missing)}", f"a {shape} row needs: {', '.join(known.keys)}")
    what = f"is a {found.shape} row" if found else f"has the keys {_keys(value)}"
    raise Refused(RejectCode.UNKNOWN_SHAPE, f"{what} where {shape} rows are expected", f"a {shape} row needs: {', '.join(wanted[0].keys)}")


def _keys(value: dict[str, Any]) -> str:
    return ", ".join(sorted(value)[:10]) or "none"


def _known_formats() -> str:
    return "known: " + "; ".join("+".join(known.keys) for known in FORMATS)


def _own_id(value: Any) -> str | None:
    """The `id` column: text, or a whole number written as text. Anything else stays among the other columns."""
    own = value.get("id") if isinstance(value, dict) else None
    if isinstance(own, bool) or not isinstance(own, str | int):
        return None
    return str(own) or None


def _with_own_id(row: Row, taken: Mapping[str, str]) -> Row:
    """The row with an id nothing else has: an exact copy becomes `…-2`, then `…-3`."""
    if row.id not in taken:
        return row
    number = 2
    while f"{row.id}-{number}" in taken:
        number += 1
    return row.model_copy(update={"id": f"{row.id}-{number}"})


def _group(value: dict[str, Any], group_by: str | None) -> str | None:
    if group_by is None:
        return None
    group = value.get(group_by)
    if group is None or group == "":
        fix = did_you_mean(group_by, value) if group_by not in value else "give the row its group"
        raise Refused(RejectCode.MISSING_FIELD, f"has no {group_by}, by which rows are grouped", fix)
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise Refused(RejectCode.WRONG_TYPE, f"its {group_by} is a {type(group).__name__}", "a group is text or a whole number")
    return str(group)


def _text(value: dict[str, Any], key: str, code: RejectCode) -> str:
    """The text under a key that must hold some; `code` is the reason where it holds none."""
    text = value[key]
    if text is None or (isinstance(text, str) and not text.strip()):
        raise Refused(code, f"its {key} is empty", f"write the {key}, or remove the row")
    if not isinstance(text, str):
        raise Refused(RejectCode.WRONG_TYPE, f"its {key} is a {type(text).__name__}, not text", f'write the {key} in quotes: "{key}": "..."')
    return text


def _label_fields(value: dict[str, Any], labels: Sequence[str] | None) -> dict[str, Any]:
    label = _text(value, "label", RejectCode.MISSING_FIELD)
    text = _text(value, "text", RejectCode.EMPTY_ANSWER)
    if labels is not None and label not in labels:
        raise Refused(RejectCode.LABEL_UNKNOWN, f'its label "{label}" is not among the declared ones', did_you_mean(label, labels))
    return {"text": text, "label": label}


def _prompt_completion_fields(value: dict[str, Any], labels: Sequence[str] | None) -> dict[str, Any]:
    prompt = _text(value, "prompt", RejectCode.MISSING_FIELD)
    return {"prompt": prompt, "completion": _text(value, "completion", RejectCode.EMPTY_ANSWER)}


def _text_fields(value: dict[str, Any], labels: Sequence[str] | None) -> dict[str, Any]:
    return {"text": _text(value, "text", RejectCode.EMPTY_ANSWER)}


def _chat_fields(value: dict[str, Any], labels: Sequence[str] | None) -> dict[str, Any]:
    turns = value["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Refused(RejectCode.WRONG_TYPE, "its messages are no list of objects", 'write "messages": [{"role": "user", "content": "..."}, ...]')
    messages = [_message(number, turn) for number, turn in enumerate(turns, start=1)]
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise Refused(RejectCode.NO_ASSISTANT_TURN, "no turn is the assistant's", "add the assistant's answer as the last message")
    _role_order(roles)
    answers = [message for message in messages if message["role"] == "assistant"]
    for message in messages:
        if not message["content"].strip() and message["role"] != "system":
            empty = RejectCode.EMPTY_ANSWER if message["role"] == "assistant" else RejectCode.MISSING_FIELD
            raise Refused(empty, f"a turn of the {message['role']} is empty", "write the turn, or remove the row")
    if all(message.get("weight") == 0 for message in answers):
        raise Refused(RejectCode.NO_SCORED_TOKENS, "every answer has weight 0, so nothing would be trained", "give one answer weight 1")
    return {"messages": messages}


def _message(number: int, turn: dict[str, Any]) -> dict[str, Any]:
    unread = [key for key in _UNREAD if holds(turn, key)]
    if unread:
        raise Refused(RejectCode.UNKNOWN_SHAPE, f"message {number} has {', '.join(unread)}, which this version does not train on", "leave these rows out")
    absent = [key for key in ("role", "content") if key not in turn]
    if absent:
        raise Refused(RejectCode.MISSING_FIELD, f"message {number} has no {' and no '.join(absent)}", "a message needs: role, content")
    role, content, weight = turn["role"], turn["content"], turn.get("weight")
    if not isinstance(role, str) or role not in _ROLES:
        raise Refused(RejectCode.UNKNOWN_ROLE, f'message {number} has the role "{role}"', did_you_mean(str(role), _ROLES))
    if content is not None and not isinstance(content, str):
        raise Refused(RejectCode.WRONG_TYPE, f"the content of message {number} is a {type(content).__name__}, not text", "write the content as text")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise Refused(RejectCode.WRONG_TYPE, f"the weight of message {number} is {weight!r}", "a weight is 0 or 1")
    return {"role": role, "content": content or ""} | ({} if weight is None else {"weight": float(weight)})


def _role_order(roles: Sequence[str]) -> None:
    """Allowed: system at most once and first; user; then assistant, which tool results and more assistant turns may follow; assistant last."""
    follows = {"": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("tool", "assistant")}
    before = ""
    for number, role in enumerate(roles, start=1):
        if role not in follows[before]:
            after = f"after {before}" if before else "first"
            raise Refused(RejectCode.ROLE_ORDER, f"message {number} is {role} {after}", f"allowed here: {' or '.join(follows[before])}")
        before = role
    if before != "assistant":
        raise Refused(RejectCode.ROLE_ORDER, f"the last message is {before}", "end with the assistant's answer")


def _message_extra(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Keys of single messages that no shape names, kept by the 1-based number of the message."""
    kept = {str(number): {key: item for key, item in turn.items() if key not in ("role", "content", "weight")} for number, turn in enumerate(turns, start=1)}
    others = {number: more for number, more in kept.items() if more}
    return {"message_columns": others} if others else {}


_FIELDS = {"label": _label_fields, "chat": _chat_fields, "prompt_completion": _prompt_completion_fields, "text": _text_fields}
_ROWS: dict[str, Any] = {"label": LabelRow, "chat": ChatRow, "prompt_completion": PromptCompletionRow, "text": TextRow}


def _refuse_file(path: Path, reading: Reading, mixed: bool) -> None:
    """Refuse the file as a whole: too many malformed lines, several shapes, or both at once."""
    problems = []
    shapes = Counter(row.shape for row in reading.accepted)
    if len(shapes) > 1 and not mixed:
        counts = ", ".join(f"{shape} {count}" for shape, count in sorted(shapes.items()))
        problems.append(Problem(str(path), f"rows of several shapes: {counts}", "keep one shape per file, name the shape, or set mixed: true"))
    malformed = [row for row in reading.rejected if row.code in MALFORMED]
    if len(malformed) > MALFORMED_SHARE * reading.n_in:
        codes = ", ".join(f"{code.value} {count}" for code, count in sorted(Counter(row.code for row in malformed).items()))
        share = len(malformed) / reading.n_in
        why = f"{len(malformed)} of {reading.n_in} lines ({share:.1%}) are malformed, more than {MALFORMED_SHARE:.0%}: {codes}"
        problems.insert(0, Problem(str(path), why, "mend these lines, or check that the file is the one you meant"))
        problems += [Problem(f"{path}:{row.line}", f"{row.code.value}: {row.why}", row.fix) for row in malformed[:SHOWN]]
        raise TooManyMalformed(reading, *problems)
    if problems:
        raise InputError(*problems)
