"""The Dataset artifact: a folder with the accepted rows, the rejected ones, the split, the sealed gold set and a manifest.

    rows.jsonl      accepted rows, one a line          rejected.jsonl   refused rows with code, why, fix and raw line
    split.json      {row_id: split}                    gold.json        the sealed gold set
    blind.json      the half of the gold set that is kept for one last look, if there is one
    manifest.json   counts, shares, hashes of the files above, parents, version, task
    findings/       per check CHECK.jsonl with its findings and CHECK.json with its figures

The same input gives the same bytes. `Dataset` itself hands out training and validation rows only. Corrections of served answers become the rows of the next
version here (MISSION L5).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from planish.data import gold as gold_file
from planish.data.feedback import Correction, Feedback, convert
from planish.data.finding import CheckResult
from planish.data.split import SPLITS, SplitName
from planish.data.table import ROW, Table
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.rows import GoldSet, Noun, RejectedRow, Row, canonical_json, content_hash
from planish.store.objects import file_hash, write_atomic

__all__ = ["Correction", "Dataset", "Feedback", "Manifest", "assignment", "every_row", "feedback_version", "read", "rejected_rows", "write"]

ROWS, REJECTED, SPLIT, GOLD, MANIFEST = "rows.jsonl", "rejected.jsonl", "split.json", "gold.json", "manifest.json"
BLIND = "blind.json"
FREQUENCIES = "frequencies.json"


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

    @property
    def blind_path(self) -> Path:
        """Where the blind half of its gold set lies, if it was given one."""
        return self.folder / BLIND

    def rows(self, split: Literal["train", "validation"]) -> Iterator[Row]:
        """The rows of a split, read one by one. Raises InputError for any other split: gold is unreachable from here."""
        if split not in ("train", "validation"):
            raise InputError(Problem(f"split {split}", "is not for training or tuning", "known: train, validation"))
        return every_row(self, split)


def write(
    folder: Path,
    rows: Table,
    rejected: Sequence[RejectedRow],
    assignment: Mapping[str, SplitName],
    gold: GoldSet,
    task: Task,
    *,
    blind: GoldSet | None = None,
    found: Mapping[str, CheckResult] | None = None,
    often: Mapping[str, int] | None = None,
    version: int = 1,
    parents: Sequence[str] = (),
) -> Dataset:
    """Write the folder, the manifest last; `often` is what `frequencies` gives back. Every accepted row must be in `assignment`; raises InputError naming those that
    are not."""
    adrift = [row_id for row_id in rows.ids if row_id not in assignment]
    if adrift:
        raise InputError(*(Problem(f"row {row_id}", "is in no split", "split the rows again with the stored assignment") for row_id in adrift[:20]))
    write_atomic(folder / ROWS, rows.lines())
    _lines(folder / REJECTED, rejected)
    write_atomic(folder / SPLIT, (canonical_json({row_id: assignment[row_id] for row_id in rows.ids}) + "\n").encode())
    gold_file.write(gold, folder / GOLD)
    files = [ROWS, REJECTED, SPLIT, GOLD]
    if blind is not None:
        gold_file.write(blind, folder / BLIND)
        files.append(BLIND)
    if often:
        write_atomic(folder / FREQUENCIES, (canonical_json(often) + "\n").encode())
        files.append(FREQUENCIES)
    for check, result in sorted((found or {}).items()):
        _lines(folder / "findings" / f"{check}.jsonl", result.findings)
        write_atomic(folder / "findings" / f"{check}.json", (canonical_json(result.figures) + "\n").encode())
        files += [f"findings/{check}.jsonl", f"findings/{check}.json"]
    counts = _counts(rows, rejected, assignment)
    manifest = Manifest(
        version=version,
        task=task,
        counts=counts,
        labels=_labels(rows, assignment),
        shares={name: counts[name] / max(1, len(rows)) for name in SPLITS},
        hashes={name: file_hash(folder / name) for name in files},
        gold_sha256=gold.sha256,
        parents=tuple(parents),
    )
    write_atomic(folder / MANIFEST, (canonical_json(manifest.model_dump(mode="json")) + "\n").encode())
    return Dataset(folder, manifest)


def frequencies(data: Dataset) -> dict[str, int]:
    """How often a row stood in the data before its copies were set aside, of those that had any; nothing unless that was asked for: `duplicates: {weight: count}` (MISSION D5)."""
    kept = data.folder / FREQUENCIES
    return dict(json.loads(kept.read_text(encoding="utf-8"))) if kept.is_file() else {}


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
            row = ROW.validate_json(line)
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


def feedback_version(dataset: Dataset, corrections: Sequence[Correction]) -> Feedback:
    """What corrections add to the data set (MISSION L5); see `planish.data.feedback.convert`."""
    return convert(every_row(dataset), assignment(dataset), dataset.task, corrections)


def _lines(path: Path, nouns: Iterable[Any]) -> None:
    write_atomic(path, ((canonical_json(noun.model_dump(mode="json")) + "\n").encode() for noun in nouns))


def _counts(rows: Table, rejected: Sequence[RejectedRow], assignment: Mapping[str, SplitName]) -> dict[str, int]:
    codes = Counter(row.code.value for row in rejected)
    splits = Counter(assignment[row_id] for row_id in rows.ids)
    total = {"n_in": len(rows) + len(rejected), "n_accepted": len(rows), "n_rejected": len(rejected)}
    return total | {name: splits[name] for name in SPLITS} | {f"rejected.{code}": count for code, count in sorted(codes.items())}


def _labels(rows: Table, assignment: Mapping[str, SplitName]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for row in rows.keys:
        if row.label is not None:
            counts[assignment[row.id]][row.label] += 1
    return {name: dict(sorted(count.items())) for name, count in counts.items()}
