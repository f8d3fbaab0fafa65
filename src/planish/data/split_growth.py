"""A stored split that grows: no stored row moves, new units go where their hash says, and new rows that join two sides are set aside (MISSION D8)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from planish.data.finding import Finding
from planish.data.split import SplitName
from planish.data.split_units import Join, Unit, hashed, joins, name_of, units_of
from planish.data.table import Keys
from planish.errors import InputError, Problem
from planish.rows import RejectCode


def grown(units: Sequence[Unit], stored: Mapping[str, SplitName], targets: Mapping[SplitName, float], seed: int) -> list[SplitName]:
    """A unit with stored rows goes where they are (gold where they are gold or unused: the cap decides between these); a new one where its hash says."""
    chosen: list[SplitName] = []
    for unit in units:
        sides = {_side(stored[row.id]) for row in unit if row.id in stored}
        if sides:
            chosen.append(sides.pop())
            continue
        point = hashed(seed, f"place {name_of(unit)}") / 2**64
        chosen.append("gold" if point < targets["gold"] else "validation" if point < targets["gold"] + targets["validation"] else "train")
    return chosen


def group_leaks(rows: Sequence[Keys], cluster: Mapping[str, int], stored: Mapping[str, SplitName]) -> list[Finding]:
    """New rows that join stored rows of different splits: those that touch two sides themselves, or, where only a chain does, the chain's new rows."""
    findings: list[Finding] = []
    remaining = list(rows)
    while conflicts := [unit for unit in units_of(remaining, cluster) if len({_side(stored[row.id]) for row in unit if row.id in stored}) > 1]:
        leaked: dict[str, Finding] = {}
        for unit in conflicts:
            old = [row for row in unit if row.id in stored]
            new = [row for row in unit if row.id not in stored]
            if not new:
                raise _stored_conflict(unit, stored)
            sides: dict[Join, dict[SplitName, str]] = defaultdict(dict)  # join -> side -> a stored row there
            for row in old:
                for key in joins(row, cluster):
                    sides[key][_side(stored[row.id])] = row.id
            touching = {row.id: {side: other for key in joins(row, cluster) for side, other in sides[key].items()} for row in new}
            direct = [row for row in new if len(touching[row.id]) > 1]
            for row in direct or new:
                leaked[row.id] = _leak(row, touching[row.id])
        findings += [leaked[row.id] for row in remaining if row.id in leaked]
        remaining = [row for row in remaining if row.id not in leaked]
    return findings


def _side(name: SplitName) -> SplitName:
    return "gold" if name == "unused" else name


def _leak(row: Keys, touches: Mapping[SplitName, str]) -> Finding:
    named = " and ".join(f"{side} ({other})" for side, other in sorted(touches.items())) or "stored rows of different splits, through other new rows"
    see = next((touches[side] for side in ("gold", "validation", "train") if side in touches), None)
    fix = "leave it out: its group and its question lie on two sides, and stored rows never move"
    return Finding(row_id=row.id, code=RejectCode.GROUP_LEAK, severity="reject", why=f"joins {named}", fix=fix, see=see)


def _stored_conflict(unit: Unit, stored: Mapping[str, SplitName]) -> InputError:
    lying = ", ".join(f"{row.id} in {stored[row.id]}" for row in unit[:5])
    fix = "keep the group_by that the stored split was made with, or prepare a new data set without it"
    return InputError(Problem("split.json", f"stored rows that belong together lie on two sides: {lying}", fix))
