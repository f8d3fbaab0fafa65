"""Train, validation and gold: no group and no question ever lies on two sides, and no stored row ever moves (MISSION D8).

The first split is a label-stratified greedy over units in hash order; a unit is the rows joined by a shared group or a shared question (every duplicate
cluster lies inside one). Growth keeps every stored assignment and places new units by hash. `unused` holds gold rows over `gold_max`: kept out of training,
because their groups are in gold.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from planish.data.finding import Finding
from planish.data.normalise import input_key
from planish.errors import InputError, Problem
from planish.rows import LabelRow, Noun, RejectCode, Row

SplitName = Literal["train", "validation", "gold", "unused"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class Split(Noun):
    """Where every row went. `shares` are the achieved shares of the placed rows; `findings` are the new rows that would have joined two sides."""

    assignment: dict[str, SplitName]
    shares: dict[str, float]
    counts: dict[str, dict[str, int]]  # split -> label -> rows; rows without a label count under ""
    seed: int
    findings: tuple[Finding, ...] = ()


class _Unit:
    """Rows that travel together."""

    def __init__(self, key: str, rows: list[Row]) -> None:
        self.key = key
        self.rows = rows
        self.labels = Counter(_label(row) for row in rows)


def divide(
    rows: Sequence[Row],
    *,
    validation: float = 0.1,
    gold: float = 0.2,
    gold_max: int | None = None,
    seed: int = 42,
    existing: Mapping[str, SplitName] | None = None,
) -> Split:
    """Assign every row. The order of `rows` does not matter.

    `validation` and `gold` are shares of the rows, `gold_max` a cap on gold rows, `existing` the stored assignment by row id.
    Raises InputError when one unit holds more than half of the rows, when a label is absent from gold or from train, or when stored rows of one unit lie on
    two sides.
    """
    stored = {row.id: existing[row.id] for row in rows if row.id in existing} if existing else {}
    findings = _group_leaks(rows, stored) if stored else []
    leaked = {finding.row_id for finding in findings}
    placed = [row for row in rows if row.id not in leaked]
    units = sorted(_units(placed), key=lambda unit: _hash(seed, unit.key))
    _refuse_giant(units, len(placed))
    targets: dict[SplitName, float] = {"train": 1 - validation - gold, "validation": validation, "gold": gold}
    chosen = _grow(units, stored, targets, seed) if stored else _greedy(units, {name: share for name, share in targets.items() if share > 0})
    assignment: dict[str, SplitName] = {}
    for unit, name in zip(units, chosen, strict=True):
        assignment |= {row.id: stored.get(row.id, name) for row in unit.rows}
    if gold_max is not None:
        assignment |= _over_cap([row for row in placed if assignment[row.id] == "gold"], gold_max, stored, seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for row in placed:
        counts[assignment[row.id]][_label(row)] += 1
    _refuse_absent(counts)
    return Split(
        assignment={row.id: assignment[row.id] for row in placed},
        shares={name: counts[name].total() / len(placed) for name in SPLITS},
        counts={name: dict(sorted(counts[name].items())) for name in SPLITS},
        seed=seed,
        findings=tuple(findings),
    )


def _label(row: Row) -> str:
    return row.label if isinstance(row, LabelRow) else ""


def _hash(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")


def _joins(row: Row) -> list[str]:
    """What ties a row to others: its group and its question. A question sorts behind every group, so a unit is named by its groups first."""
    return ([f"group {row.group}"] if row.group is not None else []) + [f"question {input_key(row)}"]


def _units(rows: Sequence[Row]) -> list[_Unit]:
    """Connected components over shared groups and questions."""
    root: dict[str, str] = {}

    def find(key: str) -> str:
        root.setdefault(key, key)
        while root[key] != key:
            root[key] = root[root[key]]
            key = root[key]
        return key

    joins = [_joins(row) for row in rows]
    for keys in joins:
        for key in keys:
            first, second = sorted((find(keys[0]), find(key)))
            root[second] = first  # the smallest key names the unit, whatever the order of the rows
    members: dict[str, list[Row]] = defaultdict(list)
    for row, keys in zip(rows, joins, strict=True):
        members[find(keys[0])].append(row)
    return [_Unit(key, sorted(unit, key=lambda row: row.id)) for key, unit in members.items()]


def _greedy(units: Sequence[_Unit], targets: Mapping[SplitName, float]) -> list[SplitName]:
    """Each unit, in hash order, to the split whose label counts it brings nearest to their targets.

    The distance is the sum over splits and labels of (have - want)^2 / want; for units of one row this is the Sainte-Laguë rule of proportional seats.
    """
    totals: Counter[str] = Counter()
    for unit in units:
        totals += unit.labels
    have: dict[SplitName, Counter[str]] = {name: Counter() for name in targets}

    def cost(unit: _Unit, name: SplitName) -> float:
        want = {label: totals[label] * targets[name] for label in unit.labels}
        return sum(n * (n + 2 * (have[name][label] - want[label])) / want[label] for label, n in unit.labels.items())

    chosen: list[SplitName] = []
    for unit in units:
        name = min(targets, key=lambda name: cost(unit, name))
        have[name] += unit.labels
        chosen.append(name)
    _lend_to_gold(units, chosen, have)
    return chosen


def _lend_to_gold(units: Sequence[_Unit], chosen: list[SplitName], have: Mapping[SplitName, Counter[str]]) -> None:
    """A label too rare for its share of gold still needs one row there: move the smallest training unit that has it, if train keeps every label."""
    for label in sorted(have["train"]):
        if have["gold"][label]:
            continue
        able = [
            index
            for index, unit in enumerate(units)
            if chosen[index] == "train" and unit.labels[label] and all(have["train"][other] > n for other, n in unit.labels.items())
        ]
        if able:
            index = min(able, key=lambda index: len(units[index].rows))
            chosen[index] = "gold"
            have["train"].subtract(units[index].labels)
            have["gold"].update(units[index].labels)


def _grow(units: Sequence[_Unit], stored: Mapping[str, SplitName], targets: Mapping[SplitName, float], seed: int) -> list[SplitName]:
    """A unit with stored rows goes where they are (gold where they are gold or unused: the cap decides between these); a new one where its hash says."""
    chosen: list[SplitName] = []
    for unit in units:
        sides = {_side(stored[row.id]) for row in unit.rows if row.id in stored}
        if sides:
            chosen.append(sides.pop())
            continue
        point = _hash(seed, f"place {unit.key}") / 2**64
        chosen.append("gold" if point < targets["gold"] else "validation" if point < targets["gold"] + targets["validation"] else "train")
    return chosen


def _side(name: SplitName) -> SplitName:
    return "gold" if name == "unused" else name


def _group_leaks(rows: Sequence[Row], stored: Mapping[str, SplitName]) -> list[Finding]:
    """New rows that join stored rows of different splits: those that touch two sides themselves, or, where only a chain does, the chain's new rows."""
    findings: list[Finding] = []
    remaining = list(rows)
    while conflicts := [unit for unit in _units(remaining) if len({_side(stored[row.id]) for row in unit.rows if row.id in stored}) > 1]:
        leaked: dict[str, Finding] = {}
        for unit in conflicts:
            old = [row for row in unit.rows if row.id in stored]
            new = [row for row in unit.rows if row.id not in stored]
            if not new:
                raise _stored_conflict(unit, stored)
            sides: dict[str, dict[SplitName, str]] = defaultdict(dict)  # join -> side -> a stored row there
            for row in old:
                for key in _joins(row):
                    sides[key][_side(stored[row.id])] = row.id
            touching = {row.id: {side: other for key in _joins(row) for side, other in sides[key].items()} for row in new}
            direct = [row for row in new if len(touching[row.id]) > 1]
            for row in direct or new:
                leaked[row.id] = _leak(row, touching[row.id])
        findings += [leaked[row.id] for row in remaining if row.id in leaked]
        remaining = [row for row in remaining if row.id not in leaked]
    return findings


def _leak(row: Row, touches: Mapping[SplitName, str]) -> Finding:
    named = " and ".join(f"{side} ({other})" for side, other in sorted(touches.items())) or "stored rows of different splits, through other new rows"
    see = next((touches[side] for side in ("gold", "validation", "train") if side in touches), None)
    fix = "leave it out: its group and its question lie on two sides, and stored rows never move"
    return Finding(row_id=row.id, code=RejectCode.GROUP_LEAK, severity="reject", why=f"joins {named}", fix=fix, see=see)


def _stored_conflict(unit: _Unit, stored: Mapping[str, SplitName]) -> InputError:
    lying = ", ".join(f"{row.id} in {stored[row.id]}" for row in unit.rows[:5])
    fix = "keep the group_by that the stored split was made with, or prepare a new data set without it"
    return InputError(Problem("split.json", f"stored rows that belong together lie on two sides: {lying}", fix))


def _over_cap(candidates: Sequence[Row], gold_max: int, stored: Mapping[str, SplitName], seed: int) -> dict[str, SplitName]:
    """What the cap leaves out of gold. Rows are kept label by label in hash order: many groups with a few rows each tell more than few whole groups."""
    fresh = [row for row in candidates if row.id not in stored]
    room = max(0, gold_max - (len(candidates) - len(fresh)))
    if len(fresh) <= room:
        return {}
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(fresh, key=lambda row: (_hash(seed, f"row {row.id}"), row.id)):
        by_label[_label(row)].append(row)
    quota = _largest_remainder({label: len(members) for label, members in by_label.items()}, room)
    return {row.id: "unused" for label, members in by_label.items() for row in members[quota[label] :]}


def _largest_remainder(sizes: Mapping[str, int], seats: int) -> dict[str, int]:
    """`seats` shared in proportion to `sizes`, none above its size."""
    total = sum(sizes.values())
    exact = {label: seats * size / total for label, size in sizes.items()}
    quota = {label: int(share) for label, share in exact.items()}
    for label in sorted(exact, key=lambda label: (quota[label] - exact[label], label))[: seats - sum(quota.values())]:
        quota[label] += 1
    return quota


def _refuse_giant(units: Iterable[_Unit], n: int) -> None:
    for unit in units:
        if len(unit.rows) * 2 > n:
            why = f"{len(unit.rows)} of {n} rows belong together ({unit.key}), more than half"
            fix = "group by a finer column, leave group_by out, remove the copies, or add rows of other groups"
            raise InputError(Problem("data.split", why, fix))


def _refuse_absent(counts: Mapping[str, Counter[str]]) -> None:
    problems = []
    for label in sorted(set().union(*counts.values())):
        n = sum(counts[name][label] for name in SPLITS)
        for name in ("gold", "train"):
            if not counts[name][label]:
                what = f'label "{label}" ({n} rows)' if label else "every row"
                fix = "add rows of it from other groups, merge it with another label, leave it out, or ask for a larger gold share"
                problems.append(Problem("data.split", f"{what} has no row in {name}", fix))
    if problems:
        raise InputError(*problems)
