"""The Dataset artifact: a folder with the accepted rows, the rejected ones, the split, the sealed gold set and a manifest.

    rows.jsonl      accepted rows, one a line          rejected.jsonl   refused rows with code, why, fix and raw line
    split.json      {row_id: split}                    gold.json        the sealed gold set
    manifest.json   counts, shares, hashes of the files above, parents, version, task; findings/CHECK.jsonl where a check found something

The same input gives the same bytes. `Dataset` itself hands out training and validation rows only. Corrections of served answers become the rows of the next
version here (MISSION L5).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from planish.data import gold as gold_file
from planish.data.contract import Refused, row_from
from planish.data.finding import Finding
from planish.data.formats import Fault
from planish.data.normalise import input_key
from planish.data.split import SPLITS, SplitName
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.rows import GoldSet, LabelRow, Noun, Origin, RejectCode, RejectedRow, Row, canonical_json, content_hash
from planish.store.objects import file_hash, write_atomic

ROWS, REJECTED, SPLIT, GOLD, MANIFEST = "rows.jsonl", "rejected.jsonl", "split.json", "gold.json", "manifest.json"
_ROW: TypeAdapter[Row] = TypeAdapter(Row)


class Manifest(Noun):
    """What is in the folder, by count and by hash. `parents` are hashes of the data sets this one grew from."""

    version: int
    task: Task
    counts: dict[str, int]
    labels: dict[str, dict[str, int]]  # split -> label -> rows
    shares: dict[str, float]
    hashes: dict[str, str]
    gold_sha256: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set on disk. Gold rows are out of its reach: evaluation reads them with `gold.read(dataset.gold_path)`."""

    folder: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """The hash of everything in it."""
        return content_hash(self.manifest.model_dump(mode="json"))

    @property
    def task(self) -> Task:
        """What its rows are for."""
        return self.manifest.task

    @property
    def gold_path(self) -> Path:
        """Where its sealed gold set lies."""
        return self.folder / GOLD

    def rows(self, split: Literal["train", "validation"]) -> Iterator[Row]:
        """The rows of a split, read one by one. Raises InputError for any other split: gold is unreachable from here."""
        if split not in ("train", "validation"):
            raise InputError(Problem(f"split {split}", "is not for training or tuning", "known: train, validation"))
        return every_row(self, split)


def write(
    folder: Path,
    rows: Sequence[Row],
    rejected: Sequence[RejectedRow],
    assignment: Mapping[str, SplitName],
    gold: GoldSet,
    task: Task,
    *,
    findings: Mapping[str, Sequence[Finding]] | None = None,
    version: int = 1,
    parents: Sequence[str] = (),
) -> Dataset:
    """Write the folder, the manifest last. Every accepted row must be in `assignment`; raises InputError naming those that are not."""
    adrift = [row.id for row in rows if row.id not in assignment]
    if adrift:
        raise InputError(*(Problem(f"row {row_id}", "is in no split", "split the rows again with the stored assignment") for row_id in adrift[:20]))
    _lines(folder / ROWS, rows)
    _lines(folder / REJECTED, rejected)
    write_atomic(folder / SPLIT, (canonical_json({row.id: assignment[row.id] for row in rows}) + "\n").encode())
    gold_file.write(gold, folder / GOLD)
    files = [ROWS, REJECTED, SPLIT, GOLD]
    for check, found in sorted((findings or {}).items()):
        _lines(folder / "findings" / f"{check}.jsonl", found)
        files.append(f"findings/{check}.jsonl")
    manifest = Manifest(
        version=version,
        task=task,
        counts=_counts(rows, rejected, assignment),
        labels=_labels(rows, assignment),
        shares={name: sum(assignment[row.id] == name for row in rows) / max(1, len(rows)) for name in SPLITS},
        hashes={name: file_hash(folder / name) for name in files},
        gold_sha256=gold.sha256,
        parents=tuple(parents),
    )
    write_atomic(folder / MANIFEST, (canonical_json(manifest.model_dump(mode="json")) + "\n").encode())
    return Dataset(folder, manifest)


def read(folder: Path) -> Dataset:
    """The data set in `folder`. Raises InputError when it is none, or naming every file that was changed or removed since it was written."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        raise InputError(Problem(str(folder), "is no data set: it has no readable manifest.json", "prepare the data first")) from None
    except ValidationError as broken:
        raise InputError(Problem(str(folder / MANIFEST), f"is no manifest: {broken.errors()[0]['msg']}", "prepare the data again")) from broken
    changed = [name for name, digest in manifest.hashes.items() if not (folder / name).is_file() or file_hash(folder / name) != digest]
    if changed:
        raise InputError(*(Problem(str(folder / name), "was changed or removed after it was written", "prepare the data again") for name in changed))
    return Dataset(folder, manifest)


def every_row(dataset: Dataset, split: SplitName | None = None) -> Iterator[Row]:
    """The accepted rows of one split or of all, for the stages that prepare, judge and feed back; training has `Dataset.rows`."""
    placed = assignment(dataset)
    with (dataset.folder / ROWS).open("rb") as stream:
        for line in stream:
            row = _ROW.validate_json(line)
            if split is None or placed[row.id] == split:
                yield row


def rejected_rows(dataset: Dataset) -> Iterator[RejectedRow]:
    """The refused rows, read one by one."""
    with (dataset.folder / REJECTED).open("rb") as stream:
        for line in stream:
            yield RejectedRow.model_validate_json(line)


def assignment(dataset: Dataset) -> dict[str, SplitName]:
    """The stored split of every accepted row by id."""
    placed: dict[str, SplitName] = json.loads((dataset.folder / SPLIT).read_bytes())
    return placed


class Correction(Noun):
    """What a person says a served request should have been answered. `text` is the user's own text, without the instruction (`Task.text_of`)."""

    log_id: str
    text: str
    corrected: str
    author: str = ""


class Feedback(Noun):
    """What corrections add to a data set: rows with their split, and those refused."""

    rows: tuple[LabelRow, ...]
    rejected: tuple[RejectedRow, ...]
    assignment: dict[str, SplitName]


def feedback_version(dataset: Dataset, corrections: Sequence[Correction], *, file: str = "corrections.jsonl") -> Feedback:
    """Corrections as rows of the next version: held to the same contract, without copies, each with its lineage in `extra`.

    A row whose id hashes below a half goes to the next gold set, any other to train. What asks a gold row's question is quarantined as gold_overlap; what
    repeats or contradicts a stored row, or an earlier correction, is refused too. Raises InputError when the task is not classification.
    """
    if dataset.task.shape != "classification":
        raise InputError(Problem("feedback", f"corrections of the task {dataset.task.shape} are not converted yet", "correct a classification"))
    placed = assignment(dataset)
    asked: dict[str, Row] = {}
    for row in every_row(dataset):
        if placed[row.id] == "gold":
            asked[input_key(row)] = row  # gold wins over a copy of it elsewhere
        else:
            asked.setdefault(input_key(row), row)
    taken = set(placed)
    rows: list[LabelRow] = []
    rejected: list[RejectedRow] = []
    for line, correction in enumerate(corrections, start=1):
        raw = canonical_json(correction.model_dump(mode="json"))
        result = _corrected(correction, dataset.task, Origin(file=file, line=line, sha256=hashlib.sha256(raw.encode()).hexdigest()))
        fault = result if isinstance(result, Fault) else _refused(result, asked.get(input_key(result)), placed)
        if fault is None and isinstance(result, LabelRow):
            if result.id in taken:  # a user's own id may look like this one
                result = result.model_copy(update={"id": f"{result.id}-{correction.log_id}"})
            taken.add(result.id)
            asked[input_key(result)] = result
            rows.append(result)
        elif fault is not None:
            row_id = None if isinstance(result, Fault) else result.id
            rejected.append(RejectedRow(file=file, line=line, row_id=row_id, code=fault.code, why=fault.why, fix=fault.fix, raw=raw))
    return Feedback(rows=tuple(rows), rejected=tuple(rejected), assignment={row.id: _half(row.id) for row in rows})


def _corrected(correction: Correction, task: Task, origin: Origin) -> LabelRow | Fault:
    value = {"text": correction.text, "label": correction.corrected, "log_id": correction.log_id, "author": correction.author}
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


def _lines(path: Path, nouns: Iterable[Any]) -> None:
    write_atomic(path, b"".join((canonical_json(noun.model_dump(mode="json")) + "\n").encode() for noun in nouns))


def _counts(rows: Sequence[Row], rejected: Sequence[RejectedRow], assignment: Mapping[str, SplitName]) -> dict[str, int]:
    codes = Counter(row.code.value for row in rejected)
    splits = Counter(assignment[row.id] for row in rows)
    total = {"n_in": len(rows) + len(rejected), "n_accepted": len(rows), "n_rejected": len(rejected)}
    return total | {name: splits[name] for name in SPLITS} | {f"rejected.{code}": count for code, count in sorted(codes.items())}


def _labels(rows: Sequence[Row], assignment: Mapping[str, SplitName]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for row in rows:
        if isinstance(row, LabelRow):
            counts[assignment[row.id]][row.label] += 1
    return {name: dict(sorted(count.items())) for name, count in counts.items()}
