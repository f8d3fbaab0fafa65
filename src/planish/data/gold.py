"""The gold set as a file: sealed when it is made, checked whenever it is read (MISSION D10)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.rows import GoldSet, PreferenceRow, Row, Sample, UnpairedRow, canonical_json, content_hash
from planish.store.objects import write_atomic

MIN_ROWS = 30
"""Below this no interval means anything: refused. Advice is 200 at least, 400 recommended."""

SLICES = "slices"
"""The column of a gold row that names its slices."""


def build(rows: Iterable[Row], task: Task, *, version: int = 1) -> GoldSet:
    """Seal the gold rows, in order of their ids, so that the same rows give the same hash. A row's column `slices` names what it is to be reported under: a mapping of
    key to value, or a list of names, each of which every row is then in or out of. (Any other column is a slice by itself, and no part of the seal.)

    Raises InputError below 30 rows.
    """
    rows = list(rows)
    names = sorted({name for row in rows for name in _listed(row)})
    samples = sorted((_sample(row, task, names) for row in rows), key=lambda sample: sample.id)
    if len(samples) < MIN_ROWS:
        raise _too_few("gold", len(samples))
    return GoldSet.seal(tuple(samples), task.labels, version)


def require_apart(rows: Path, gold: Path, where: str) -> None:
    """Raise InputError unless rows from `gold` can be told from those of `rows` by the file they came from: else gold rows would be trained on."""
    if gold.is_dir():
        raise InputError(Problem(where, "is a folder", "give one file of gold rows"))
    if gold.name == rows.name or (rows / gold.name).exists():
        raise InputError(Problem(where, "has the name of the file of rows, so their rows cannot be told apart", "rename one of them"))


def is_blind(row_id: str, share: float) -> bool:
    """Whether a gold row belongs to the blind part, by its hash: growth never moves it."""
    return int.from_bytes(hashlib.sha256(f"blind {row_id}".encode()).digest()[:8], "big") / 2**64 < share


def write(gold: GoldSet, path: Path) -> None:
    """Write the gold set with a seal over everything in it, whole or not at all."""
    body = gold.model_dump(mode="json")
    write_atomic(path, (canonical_json(body | {"seal": content_hash(body)}) + "\n").encode())


def read(path: Path) -> GoldSet:
    """The gold set in `path`. Raises InputError when the file is missing, was edited since it was sealed, or holds fewer than 30 rows."""
    again = "prepare the data again: a changed gold set is a new version"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        seal = body.pop("seal")
        gold = GoldSet.model_validate(body)
    except FileNotFoundError:
        raise InputError(Problem(str(path), "there is no such gold set", "prepare the data first")) from None
    except OSError as unreadable:
        raise InputError(Problem(str(path), f"cannot be read: {unreadable}", "check the file and who may read it")) from unreadable
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        raise InputError(Problem(str(path), "is no gold set: it was edited, or it is another file", again)) from None
    resealed = GoldSet.seal(gold.samples, gold.labels, gold.version)
    if resealed.sha256 != gold.sha256 or content_hash(body) != seal:
        raise InputError(Problem(str(path), "was edited after it was sealed: its hash does not match", again))
    if len(gold.samples) < MIN_ROWS:
        raise _too_few(str(path), len(gold.samples))
    return gold


def _listed(row: Row) -> list[str]:
    said = row.extra.get(SLICES)
    return [str(name) for name in said] if isinstance(said, list) else []


def _sample(row: Row, task: Task, names: Sequence[str]) -> Sample:
    messages, target, tools = task.asked(row)
    mapped, listed = row.extra.get(SLICES), _listed(row)
    cut = {name: "in" if name in listed else "out" for name in names}
    cut |= {str(key): str(value) for key, value in mapped.items()} if isinstance(mapped, dict) else {}
    pair = (row.chosen, row.rejected) if isinstance(row, PreferenceRow) else None
    judged = (row.completion, row.label) if isinstance(row, UnpairedRow) else None
    return Sample(id=row.id, messages=messages, target=target, tools=tools, slices=cut, group=row.group, pair=pair, judged=judged)


def _too_few(where: str, n: int) -> InputError:
    fix = "add rows, or ask for a larger gold share; 400 are recommended"
    return InputError(Problem(where, f"{n} gold rows; at least {MIN_ROWS} are needed to say anything", fix))
