"""Files in, rows out: every record is accepted, or rejected with a stable reason and kept aside (MISSION D2).

`n_in = n_accepted + n_rejected`, always. Accepted rows go to disk as they are read; only their keys stay in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from operator import not_
from pathlib import Path
from typing import Any, TypeVar

from planish.data import mapping as columns
from planish.data import plain_dialogue
from planish.data.accepted import Accepted, Part, RawText, Taken
from planish.data.clean import Change, cleaned
from planish.data.containers import Lines, Record, read_blocks, read_records, records_of
from planish.data.contract import judged
from planish.data.fault import Fault, Refused
from planish.data.finding import Finding
from planish.data.formats import fitting
from planish.data.parallel import CHUNK, map_chunks, uncollected
from planish.data.table import Keys, Table, keys_of, line_of
from planish.data.trace import texts_of, texts_of_turns
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import MALFORMED, NoteCode, Origin, RejectedRow, Row

T = TypeVar("T")

MALFORMED_SHARE = 0.05
"""More malformed lines than this share stop the stage: the file is not what its reader takes it for."""

SHOWN = 20
"""How many bad lines an error lists."""


@dataclass(frozen=True)
class Reading:
    """What files held. `labels` are those declared, else those found, sorted; `mapping` our key of each column that had another name; `changes` what tidying
    did, by row id; `behind` the ids of the rows of every file but the first, which no origin tells: a row that was stored before keeps the one it had."""

    file: str
    n_in: int
    accepted: Table
    rejected: tuple[RejectedRow, ...]
    raw: RawText
    labels: tuple[str, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[tuple[str, Change], ...] = ()
    behind: frozenset[str] = frozenset()

    @property
    def counts(self) -> dict[str, int]:
        """n_in, n_accepted, n_rejected, and one count per reject code that occurred."""
        codes = Counter(row.code.value for row in self.rejected)
        return {"n_in": self.n_in, "n_accepted": len(self.accepted), "n_rejected": len(self.rejected), **dict(sorted(codes.items()))}

    def set_aside(self, findings: Iterable[Finding]) -> Reading:
        """The reading with the rows of `reject` findings moved to the rejected; of several findings on one row the first counts."""
        first: dict[str, Finding] = {}
        for finding in findings:
            if finding.severity == "reject" and finding.row_id is not None:
                first.setdefault(finding.row_id, finding)
        if not first:
            return self
        kept = [key.id not in first for key in self.accepted.keys]
        rejected = tuple(_set_aside(row, first[row.id], self.raw.of(row.id)) for row in self.accepted.where(map(not_, kept)))
        return replace(self, accepted=self.accepted.where(kept), rejected=self.rejected + rejected)


class TooManyMalformed(InputError):
    """More than 5 % of the lines are malformed. `reading` has every row, so that the stage can keep `rejected.jsonl`."""

    def __init__(self, reading: Reading, *problems: Problem) -> None:
        super().__init__(*problems)
        self.reading = reading


@dataclass(frozen=True)
class Wanted:
    """What is made of a record: its columns under our keys, a row of `shape` (None: by its keys), its prompts tidied by the steps of `clean`; traced where it will
    be `compared`."""

    shape: str | None = None
    labels: tuple[str, ...] | None = None
    group_by: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    clean: tuple[str, ...] = ()
    compared: bool = True


@uncollected()
def read_rows(
    *paths: Path,
    shape: str | None = None,
    labels: Sequence[str] | None = None,
    group_by: str | None = None,
    mapping: Mapping[str, str] | None = None,
    clean: Sequence[str] = (),
    mixed: bool = False,
    strict: bool = True,
    compared: bool = True,
) -> Reading:
    """Read files and hold every row to the contract.

    `shape` is the shape that rows must have (None: by their keys); `labels` the declared set; `group_by` the column that no split may cut; `mapping` our key of
    each column that has another name (None: found out, where no row has a known shape); `clean` the steps that tidy prompts.
    Rows that will not be `compared` with others are read faster: nothing is worked out for the checks meanwhile.
    Raises InputError when a file cannot be read, when what its columns are is not sure, when its rows have several shapes and `mixed` is false, and, where
    `strict`, TooManyMalformed above 5 % malformed lines.
    """
    if mapping is None:
        mapping = _found_out(paths[0], shape, labels)
    else:
        columns.check(mapping, "data.mapping")
        _refuse_absent(paths, mapping)
    wanted = Wanted(shape, tuple(labels) if labels is not None else None, group_by, mapping, tuple(clean), compared)
    accepted = Accepted()
    rejected: list[RejectedRow] = []
    behind: set[str] = set()
    for place, path in enumerate(paths):
        before = len(accepted.keys)
        for part in map_chunks(partial(_take, wanted), _grouped(read_blocks(path)), chunk=1):
            accepted.add(part)
            rejected += part.rejected
        if place > 0:
            behind.update(key.id for key in accepted.keys[before:])
    found = {key.label for key in accepted.keys if key.label is not None}
    reading = _reading(", ".join(map(str, paths)), accepted, rejected, wanted.labels if wanted.labels is not None else sorted(found), mapping)
    reading = replace(reading, behind=frozenset(behind))
    _refuse_file(reading, mixed, strict)
    return reading


def _refuse_absent(paths: Sequence[Path], mapping: Mapping[str, str]) -> None:
    """Refuse a mapping of columns that no row has: rows would be read without them. Ends with the row that has the last of them, most often the first."""
    wanted, known = set(mapping), set[str]()
    for record in chain.from_iterable(map(read_records, paths)):
        if not isinstance(record.value, Fault):
            wanted -= record.value.keys()
            known |= record.value.keys()
        if not wanted:
            return
    raise InputError(*(Problem("data.mapping", f'no row has a column "{column}"', did_you_mean(column, known)) for column in sorted(wanted)))


def _found_out(path: Path, shape: str | None, labels: Sequence[str] | None) -> dict[str, str]:
    """The mapping of a file none of whose first rows has a known shape. Rows that have one are read as they are."""
    first = list(islice(read_records(path), columns.SAMPLE))
    if any(isinstance(record.value, Fault) or fitting(record.value, shape) is not None for record in first):
        return {}
    proposal = columns.propose(iter(first), shape, labels)
    return columns.settle(proposal, str(path)) if proposal.readings else {}


def stored(rows: Iterable[Row], rejected: Sequence[RejectedRow], file: str, labels: Sequence[str]) -> Reading:
    """Rows of an earlier version of a data set, read again; what they hold now is their raw text."""
    accepted = Accepted()
    for part in _grouped(rows):
        lines = list(map(line_of, part))
        taken = [Taken(keys_of(row), line, line.rstrip(b"\n"), texts_of(row)) for row, line in zip(part, lines, strict=True)]
        accepted.add(Part.of(taken, [], []))
    return _reading(file, accepted, rejected, labels, {})


def _reading(file: str, accepted: Accepted, rejected: Sequence[RejectedRow], labels: Sequence[str], mapping: Mapping[str, str]) -> Reading:
    """Everything that was read."""
    n_in = len(accepted.keys) + len(rejected)
    return Reading(file, n_in, accepted.table(), tuple(rejected), accepted.raw(), tuple(labels), dict(mapping), tuple(accepted.changes))


def _grouped(items: Iterable[T]) -> Iterator[list[T]]:
    """Blocks of lines one by one, as each holds many rows; anything else in runs."""
    source = iter(items)
    for first in source:
        yield [first] if isinstance(first, Lines) else [first, *islice(source, CHUNK - 1)]


def _take(wanted: Wanted, groups: list[list[Lines | Record]]) -> Part:
    """The records of some blocks as rows on their way to disk, or refused."""
    taken, tidied, rejected = list[Taken](), list[tuple[int, Change]](), list[RejectedRow]()
    for record in chain.from_iterable(records_of(block) for group in groups for block in group):
        fault, row_id = record.value, None
        if not isinstance(fault, Fault):
            try:
                row, changes = _row(wanted, record, fault)
            except Refused as refused:
                own = fault.get("id")
                row_id = str(own) if isinstance(own, str | int) and not isinstance(own, bool) and own != "" else None
                fault = refused.fault
            else:
                tidied += [(len(taken), change) for change in changes]
                taken.append(row)
                continue
        rejected.append(RejectedRow(file=record.file, line=record.line, row_id=row_id, code=fault.code, why=fault.why, fix=fault.fix, raw=record.raw))
    return Part.of(taken, tidied, rejected)


def _row(wanted: Wanted, record: Record, value: dict[str, Any]) -> tuple[Taken, tuple[Change, ...]]:
    """The row that is wanted of a record, and what was tidied in it. Raises Refused."""
    named = columns.apply(value, wanted.mapping) if wanted.mapping else value
    made = judged(named, shape=wanted.shape, labels=wanted.labels, group_by=wanted.group_by)
    raw = record.raw.encode()
    if made.origin is None and not wanted.clean and plain_dialogue.is_plain(made.shape, made.fields):
        messages = made.fields["messages"]
        folded = plain_dialogue.folded(messages)
        asked, said = plain_dialogue.digests(messages, folded)
        line = plain_dialogue.line(made.id, record.file, record.line, record.sha256, made.group, made.extra, messages)
        keys = Keys(made.id, made.shape, made.group, None, record.line, asked + said, asked, said)
        return Taken(keys, line, raw, texts_of_turns(messages, folded) if wanted.compared else None), ()
    row = made.row(Origin(file=record.file, line=record.line, sha256=record.sha256))
    row, changes = cleaned(row, wanted.clean) if wanted.clean else (row, ())
    return Taken(keys_of(row), line_of(row), raw, texts_of(row) if wanted.compared else None), changes


def _set_aside(row: Row, finding: Finding, raw: str) -> RejectedRow:
    """An accepted row that a check set aside."""
    assert not isinstance(finding.code, NoteCode)
    return RejectedRow(file=row.origin.file, line=row.origin.line, row_id=row.id, code=finding.code, why=finding.why, fix=finding.fix, raw=raw)


def _refuse_file(reading: Reading, mixed: bool, strict: bool) -> None:
    """Refuse the file as a whole: too many malformed lines, several shapes, or both at once."""
    problems = []
    shapes = Counter(key.shape for key in reading.accepted.keys)
    if len(shapes) > 1 and not mixed:
        counts = ", ".join(f"{shape} {count}" for shape, count in sorted(shapes.items()))
        problems.append(Problem(reading.file, f"rows of several shapes: {counts}", "keep one shape per file, name the shape, or set mixed: true"))
    malformed = [row for row in reading.rejected if row.code in MALFORMED]
    if strict and len(malformed) > MALFORMED_SHARE * reading.n_in:
        codes = ", ".join(f"{code.value} {count}" for code, count in sorted(Counter(row.code for row in malformed).items()))
        share = len(malformed) / reading.n_in
        why = f"{len(malformed)} of {reading.n_in} lines ({share:.1%}) are malformed, more than {MALFORMED_SHARE:.0%}: {codes}"
        problems.insert(0, Problem(reading.file, why, "mend these lines, or check that the file is the one you meant"))
        problems += [Problem(f"{reading.file}:{row.line}", f"{row.code.value}: {row.why}", row.fix) for row in malformed[:SHOWN]]
        raise TooManyMalformed(reading, *problems)
    if problems:
        raise InputError(*problems)
