"""Units of a split: rows that travel together, joined by a shared group, a shared question or a near-duplicate cluster (MISSION D8)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from planish.data.table import Keys
from planish.errors import InputError, Problem

Join = bytes | str | int
"""What ties rows together: a question by its digest, a group by its name, a cluster by its number."""
Unit = list[Keys]
"""Rows that travel together; several are in the order of their ids."""


def units_of(rows: Sequence[Keys], cluster: Mapping[str, int]) -> list[Unit]:
    """Connected components over what joins rows."""
    root: dict[Join, Join] = {}

    def find(key: Join) -> Join:
        at = root.setdefault(key, key)
        while root[at] != at:
            root[at] = root[root[at]]
            at = root[at]
        return at

    for row in rows:
        if row.group is not None or row.id in cluster:  # most rows have a question and nothing else
            first, *others = joins(row, cluster)
            for key in others:
                root[find(key)] = find(first)
    members: dict[Join, Unit] = {}
    for row in rows:
        question = row.question
        members.setdefault(find(question) if question in root else question, []).append(row)
    return [unit if len(unit) == 1 else sorted(unit, key=lambda row: row.id) for unit in members.values()]


def clusters_of(together: Iterable[Sequence[str]]) -> dict[str, int]:
    """The number of each row's cluster; clusters that share a row are one."""
    found: dict[str, int] = {}
    root: list[int] = []

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for number, ids in enumerate(together):
        root.append(number)
        for row_id in ids:
            root[find(found.setdefault(row_id, number))] = find(number)
    return {row_id: find(number) for row_id, number in found.items()}


def joins(row: Keys, cluster: Mapping[str, int]) -> tuple[Join, ...]:
    """What ties a row to others: its group, its question, its cluster."""
    group = () if row.group is None else (row.group,)
    return (*group, row.question, *((cluster[row.id],) if row.id in cluster else ()))


def name_of(unit: Unit) -> str:
    """A unit is named by its smallest group, else by its smallest question, whatever the order of the rows; never by a cluster, whose number follows that order."""
    if len(unit) == 1 and unit[0].group is None:
        return f"question {unit[0].question.hex()}"
    groups = [row.group for row in unit if row.group is not None]
    return f"group {min(groups)}" if groups else f"question {min([row.question for row in unit]).hex()}"


def by_hash(units: Sequence[Unit], seed: int) -> list[int]:
    """The units' places in the order of their hashes. The units stay where they are: read as they lie in memory, they cost a third."""
    hashes = np.frombuffer(b"".join([_digest(seed, name_of(unit)) for unit in units]), ">u8")[::4]
    order: list[int] = np.argsort(hashes, kind="stable").tolist()
    return order


def hashed(seed: int, key: str) -> int:
    """64 bits that depend on the seed and the key alone."""
    return int.from_bytes(_digest(seed, key)[:8], "big")


def _digest(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def refuse_giant(units: Iterable[Unit], n: int) -> None:
    """Raises InputError where one unit holds more than half of `n` rows."""
    for unit in units:
        if len(unit) * 2 > n:
            why = f"{len(unit)} of {n} rows belong together ({name_of(unit)}), more than half"
            fix = "group by a finer column, leave group_by out, remove the copies, or add rows of other groups"
            raise InputError(Problem("data.split", why, fix))
