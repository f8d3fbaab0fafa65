"""A gold file of one's own: a draft until it is locked; then every change is a new version with its reason (MISSION D10).

The lock of `gold.jsonl` is `gold.jsonl.lock` beside it: the hash of the file, its version, and what changed from version to version.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from planish.data.reading import read_rows
from planish.data.table import keys_of
from planish.errors import InputError, Problem
from planish.rows import Noun, canonical_json
from planish.store.objects import file_hash, write_atomic


class Change(Noun):
    """What a version brought, by row: `changed` rows keep their id and ask or answer something else."""

    version: int
    why: str
    added: int
    removed: int
    changed: int


class Lock(Noun):
    """A locked gold file. `rows` holds the digest of each row by id, so that the next version can say what it changed."""

    version: int
    sha256: str
    rows: dict[str, str]
    changes: tuple[Change, ...]


def lock_path(path: Path) -> Path:
    """Where the lock of a gold file lies."""
    return path.with_name(path.name + ".lock")


def read_lock(path: Path) -> Lock | None:
    """The lock of a gold file; None for a draft. Raises InputError when the file was edited after it was locked, or the lock is none."""
    lock = _held(path)
    if lock is not None and _hash(path) != lock.sha256:
        why = f"was edited after it was locked as version {lock.version}: its hash does not match"
        raise InputError(Problem(str(path), why, f"undo the edit, or make it a new version: planish gold lock {path} --why '...'"))
    return lock


def lock(path: Path, why: str) -> Lock:
    """Lock the file as it is now: version 1 of a draft, the next version of an edited file. Raises InputError where nothing changed or a row is refused."""
    if not why.strip():
        raise InputError(Problem("--why", "is empty", "say in a few words why there is this version: it stands in the changelog"))
    before, sha256 = _held(path), _hash(path)
    if before is not None and before.sha256 == sha256:
        raise InputError(Problem(str(path), f"is locked as version {before.version}, and nothing changed since", "edit it first, or use it as it is"))
    reading = read_rows(path, mixed=True)
    if reading.rejected:
        raise InputError(*(Problem(f"{path}:{row.line}", f"{row.code.value}: {row.why}", row.fix) for row in reading.rejected[:20]))
    rows = {row.id: keys_of(row).duplicate.hex() for row in reading.accepted}
    old = before.rows if before is not None else {}
    change = Change(
        version=before.version + 1 if before is not None else 1,
        why=why,
        added=len(rows.keys() - old.keys()),
        removed=len(old.keys() - rows.keys()),
        changed=sum(old[row_id] != rows[row_id] for row_id in rows.keys() & old.keys()),
    )
    made = Lock(version=change.version, sha256=sha256, rows=rows, changes=(*(before.changes if before is not None else ()), change))
    write_atomic(lock_path(path), (canonical_json(json.loads(made.model_dump_json())) + "\n").encode())
    return made


def _held(path: Path) -> Lock | None:
    """What lies beside the file, whether or not it fits."""
    held = lock_path(path)
    try:
        return Lock.model_validate_json(held.read_bytes()) if held.is_file() else None
    except ValidationError as broken:
        fix = "put the lock back as it was, or remove it: the file is then a draft, and its versions begin anew"
        raise InputError(Problem(str(held), f"is no lock: {broken.errors()[0]['msg']}", fix)) from broken


def _hash(path: Path) -> str:
    if not path.is_file():
        why = "is no file" if path.exists() else "there is no such file"
        raise InputError(Problem(str(path), why, "give the file of gold rows: a lock holds for one file"))
    return file_hash(path)
