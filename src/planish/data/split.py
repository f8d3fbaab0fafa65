"""Train, validation and gold: no group and no question ever lies on two sides, and no stored row ever moves (MISSION D8).

The first split is a label-stratified greedy over units in hash order; a unit is the rows joined by a shared group, a shared question (every duplicate cluster
lies inside one) or a near-duplicate cluster. Given times, the units are taken in order of time instead: the newest are gold. Growth keeps every stored
assignment and places new units by hash. `unused` holds gold rows over `gold_max`: kept out of training, because their groups are in gold.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from planish.data.finding import Finding
from planish.data.parallel import uncollected
from planish.data.table import Keys, Table
from planish.errors import InputError, Problem
from planish.rows import Noun, RejectCode

SplitName = Literal["train", "validation", "gold", "unused"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class Split(Noun):
    """Where every row went. `shares` are the achieved shares of the placed rows; `findings` are the new rows that would have joined two sides."""

    assignment: dict[str, SplitName]
    shares: dict[str, float]
    counts: dict[str, dict[str, int]]  # split -> label -> rows; rows without a label count under ""
    seed: int
    findings: tuple[Finding, ...] = ()

    def without(self, rows: Table) -> Split:
        """This split without some of its rows; no other row moves. Raises InputError when a label is left without a row in train or gold."""
        gone = [(key, self.assignment[key.id]) for key in rows.keys if key.id in self.assignment]
        counts = {name: Counter(count) for name, count in self.counts.items()}
        for key, name in gone:
            counts[name][_label(key)] -= 1
        counts = {name: +count for name, count in counts.items()}
        _refuse_absent(counts)
        left = set(rows.ids)
        assignment = {row_id: name for row_id, name in self.assignment.items() if row_id not in left}
        shares = {str(name): counts[name].total() / max(1, len(assignment)) for name in SPLITS}
        kept = {name: dict(sorted(count.items())) for name, count in counts.items()}
        return Split(assignment=assignment, shares=shares, counts=kept, seed=self.seed, findings=self.findings)

    def with_gold(self, rows: Table) -> Split:
        """This split and rows that come as gold. Raises InputError when a label of theirs has no row in train, or one of train none in theirs."""
        assignment = self.assignment | dict.fromkeys(rows.ids, "gold")
        counts = self.counts | {"gold": dict(sorted(Counter(_label(row) for row in rows.keys).items()))}
        _refuse_absent({name: Counter(count) for name, count in counts.items()})
        shares = {str(name): sum(counts[name].values()) / len(assignment) for name in SPLITS}
        return Split(assignment=assignment, shares=shares, counts=counts, seed=self.seed, findings=self.findings)


Join = bytes | str | int
"""What ties rows together: a question by its digest, a group by its name, a cluster by its number."""

Unit = list[Keys]
"""Rows that travel together; several are in the order of their ids."""


@uncollected()
def divide(
    rows: Table,
    *,
    validation: float = 0.1,
    gold: float = 0.2,
    gold_max: int | None = None,
    seed: int = 42,
    existing: Mapping[str, SplitName] | None = None,
    together: Iterable[Sequence[str]] = (),
    times: Mapping[str, str | float] | None = None,
) -> Split:
    """Assign every row. The order of `rows` does not matter.

    `validation` and `gold` are shares of the rows, `gold_max` a cap on gold rows, `existing` the stored assignment by row id, `together` clusters of row ids
    that must not be separated, `times` when each row was made: then gold is the newest rows and train the oldest, so that the score is one on later rows.
    Raises InputError when one unit holds more than half of the rows, when a label is absent from gold or from train, or when stored rows of one unit lie on
    two sides.
    """
    cluster = {row_id: number for number, ids in enumerate(together) for row_id in ids}
    stored = {row.id: existing[row.id] for row in rows.keys if row.id in existing} if existing else {}
    findings = _group_leaks(rows.keys, cluster, stored) if stored else []
    leaked = {finding.row_id for finding in findings}
    placed = [row for row in rows.keys if row.id not in leaked] if leaked else rows.keys
    units = _in_order(_units(placed, cluster), seed, times)
    _refuse_giant(units, len(placed))
    targets: dict[SplitName, float] = {"train": 1 - validation - gold, "validation": validation, "gold": gold}
    if stored:
        chosen = _grow(units, stored, targets, seed)
    else:
        wanted = {name: share for name, share in targets.items() if share > 0}
        chosen = _by_time(units, wanted) if times is not None else _greedy(units, wanted)
    assignment = {row.id: name for unit, name in zip(units, chosen, strict=True) for row in unit}
    assignment.update(stored)
    if gold_max is not None:
        assignment |= _over_cap([row for row in placed if assignment[row.id] == "gold"], gold_max, stored, seed)
    sides = [assignment[row.id] for row in placed]
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for (name, label), n in Counter(zip(sides, [row.label or "" for row in placed], strict=True)).items():
        counts[name][label] = n
    _refuse_absent(counts, needed=("gold", "train") if gold else ("train",))
    return Split(
        assignment=dict(zip([row.id for row in placed], sides, strict=True)),
        shares={name: counts[name].total() / len(placed) for name in SPLITS},
        counts={name: dict(sorted(counts[name].items())) for name in SPLITS},
        seed=seed,
        findings=tuple(findings),
    )


def _label(row: Keys) -> str:
    return row.label or ""


def _hash(seed: int, key: str) -> int:
    return int.from_bytes(_digest(seed, key), "big")


def _digest(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]


def _joins(row: Keys, cluster: Mapping[str, int]) -> tuple[Join, ...]:
    """What ties a row to others: its group, its question, its cluster."""
    group = () if row.group is None else (row.group,)
    return (*group, row.question, *((cluster[row.id],) if row.id in cluster else ()))


def _units(rows: Sequence[Keys], cluster: Mapping[str, int]) -> list[Unit]:
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
            first, *others = _joins(row, cluster)
            for key in others:
                root[find(key)] = find(first)
    members: dict[Join, Unit] = {}
    for row in rows:
        members.setdefault(find(row.question) if root else row.question, []).append(row)
    return [unit if len(unit) == 1 else sorted(unit, key=lambda row: row.id) for unit in members.values()]


def _name(unit: Unit) -> str:
    """A unit is named by its smallest group, else by its smallest question, whatever the order of the rows; never by a cluster, whose number follows that order."""
    if len(unit) == 1 and unit[0].group is None:
        return f"question {unit[0].question.hex()}"
    groups = [row.group for row in unit if row.group is not None]
    return f"group {min(groups)}" if groups else f"question {min([row.question for row in unit]).hex()}"


def _in_order(units: list[Unit], seed: int, times: Mapping[str, str | float] | None) -> list[Unit]:
    """By hash, or from the oldest to the newest; a unit is as new as its newest row."""
    if times is None:
        hashes = np.frombuffer(b"".join([_digest(seed, _name(unit)) for unit in units]), ">u8")
        return [units[place] for place in np.argsort(hashes, kind="stable").tolist()]
    missing = [row.id for unit in units for row in unit if row.id not in times]
    if missing:
        raise InputError(Problem("data.split.time_by", f"{len(missing)} rows have no time, the first is {missing[0]}", "give every row its time"))
    return sorted(units, key=lambda unit: (max(times[row.id] for row in unit), _name(unit)))


def _by_time(units: Sequence[Unit], targets: Mapping[SplitName, float]) -> list[SplitName]:
    """Train from the oldest on, then validation, gold the newest; each side closes once it has its share of the rows."""
    total, chosen, done = sum(len(unit) for unit in units), list[SplitName](), 0
    sides = [name for name in SPLITS if name in targets]  # train, validation, gold
    ends = [total * sum(targets[side] for side in sides[: index + 1]) for index in range(len(sides))]
    for unit in units:
        middle = done + len(unit) / 2
        chosen.append(next((side for side, end in zip(sides, ends, strict=True) if middle < end), sides[-1]))
        done += len(unit)
    return chosen


def _greedy(units: Sequence[Unit], targets: Mapping[SplitName, float]) -> list[SplitName]:
    """Each unit, in hash order, to the split whose label counts it brings nearest to their targets.

    The distance is the sum over splits and labels of (have - want)^2 / want; for units of one row this is the Sainte-Laguë rule of proportional seats.
    """
    totals = Counter([row.label or "" for unit in units for row in unit])
    names = list(targets)
    want = {label: [count * share for share in targets.values()] for label, count in totals.items()}
    have = {label: [0] * len(names) for label in totals}
    chosen: list[SplitName] = []
    # most units are one row: what it would cost on each side
    single = {label: [(1 + 2 * (0 - wanted)) / wanted for wanted in want[label]] for label in totals}
    for unit in units:
        labels: Iterable[tuple[str, int]]
        if len(unit) == 1:
            label = unit[0].label or ""
            costs, labels = single[label], ((label, 1),)
        else:
            labels = _labels(unit).items()
            costs = [_cost([(n, have[label][side], want[label][side]) for label, n in labels]) for side in range(len(names))]
        best = costs.index(min(costs))
        chosen.append(names[best])
        for label, n in labels:
            held, wanted = have[label], want[label][best]
            held[best] += n
            single[label][best] = (1 + 2 * (held[best] - wanted)) / wanted
    if "gold" in targets:
        _lend_to_gold(units, chosen, {name: +Counter({label: held[side] for label, held in have.items()}) for side, name in enumerate(names)})
    return chosen


def _cost(labels: Iterable[tuple[int, int, float]]) -> float:
    """What so many rows of some labels add to the distance of a side that has so many and wants so many of each."""
    cost = 0.0
    for n, held, wanted in labels:
        cost += n * (n + 2 * (held - wanted)) / wanted
    return cost


def _lend_to_gold(units: Sequence[Unit], chosen: list[SplitName], have: Mapping[SplitName, Counter[str]]) -> None:
    """A label too rare for its share of gold still needs one row there: move the smallest training unit that has it, if train keeps every label."""
    lacking = [label for label in sorted(have["train"]) if not have["gold"][label]]
    holders: dict[str, list[int]] = {label: [] for label in lacking}
    for index, unit in enumerate(units if lacking else ()):
        for label in {*map(_label, unit)} & holders.keys():
            holders[label].append(index)
    for label in lacking:
        if have["gold"][label]:
            continue
        able = [index for index in holders[label] if chosen[index] == "train" and all(have["train"][other] > n for other, n in _labels(units[index]).items())]
        if able:
            index = min(able, key=lambda index: len(units[index]))
            chosen[index] = "gold"
            have["train"].subtract(_labels(units[index]))
            have["gold"].update(_labels(units[index]))


def _labels(unit: Unit) -> Counter[str]:
    return Counter(map(_label, unit))


def _grow(units: Sequence[Unit], stored: Mapping[str, SplitName], targets: Mapping[SplitName, float], seed: int) -> list[SplitName]:
    """A unit with stored rows goes where they are (gold where they are gold or unused: the cap decides between these); a new one where its hash says."""
    chosen: list[SplitName] = []
    for unit in units:
        sides = {_side(stored[row.id]) for row in unit if row.id in stored}
        if sides:
            chosen.append(sides.pop())
            continue
        point = _hash(seed, f"place {_name(unit)}") / 2**64
        chosen.append("gold" if point < targets["gold"] else "validation" if point < targets["gold"] + targets["validation"] else "train")
    return chosen


def _side(name: SplitName) -> SplitName:
    return "gold" if name == "unused" else name


def _group_leaks(rows: Sequence[Keys], cluster: Mapping[str, int], stored: Mapping[str, SplitName]) -> list[Finding]:
    """New rows that join stored rows of different splits: those that touch two sides themselves, or, where only a chain does, the chain's new rows."""
    findings: list[Finding] = []
    remaining = list(rows)
    while conflicts := [unit for unit in _units(remaining, cluster) if len({_side(stored[row.id]) for row in unit if row.id in stored}) > 1]:
        leaked: dict[str, Finding] = {}
        for unit in conflicts:
            old = [row for row in unit if row.id in stored]
            new = [row for row in unit if row.id not in stored]
            if not new:
                raise _stored_conflict(unit, stored)
            sides: dict[Join, dict[SplitName, str]] = defaultdict(dict)  # join -> side -> a stored row there
            for row in old:
                for key in _joins(row, cluster):
                    sides[key][_side(stored[row.id])] = row.id
            touching = {row.id: {side: other for key in _joins(row, cluster) for side, other in sides[key].items()} for row in new}
            direct = [row for row in new if len(touching[row.id]) > 1]
            for row in direct or new:
                leaked[row.id] = _leak(row, touching[row.id])
        findings += [leaked[row.id] for row in remaining if row.id in leaked]
        remaining = [row for row in remaining if row.id not in leaked]
    return findings


def _leak(row: Keys, touches: Mapping[SplitName, str]) -> Finding:
    named = " and ".join(f"{side} ({other})" for side, other in sorted(touches.items())) or "stored rows of different splits, through other new rows"
    see = next((touches[side] for side in ("gold", "validation", "train") if side in touches), None)
    fix = "leave it out: its group and its question lie on two sides, and stored rows never move"
    return Finding(row_id=row.id, code=RejectCode.GROUP_LEAK, severity="reject", why=f"joins {named}", fix=fix, see=see)


def _stored_conflict(unit: Unit, stored: Mapping[str, SplitName]) -> InputError:
    lying = ", ".join(f"{row.id} in {stored[row.id]}" for row in unit[:5])
    fix = "keep the group_by that the stored split was made with, or prepare a new data set without it"
    return InputError(Problem("split.json", f"stored rows that belong together lie on two sides: {lying}", fix))


def _over_cap(candidates: Sequence[Keys], gold_max: int, stored: Mapping[str, SplitName], seed: int) -> dict[str, SplitName]:
    """What the cap leaves out of gold. Rows are kept label by label in hash order: many groups with a few rows each tell more than few whole groups."""
    fresh = [row for row in candidates if row.id not in stored]
    room = max(0, gold_max - (len(candidates) - len(fresh)))
    if len(fresh) <= room:
        return {}
    by_label: dict[str, list[Keys]] = defaultdict(list)
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


def _refuse_giant(units: Iterable[Unit], n: int) -> None:
    for unit in units:
        if len(unit) * 2 > n:
            why = f"{len(unit)} of {n} rows belong together ({_name(unit)}), more than half"
            fix = "group by a finer column, leave group_by out, remove the copies, or add rows of other groups"
            raise InputError(Problem("data.split", why, fix))


def _refuse_absent(counts: Mapping[str, Counter[str]], needed: Sequence[str] = ("gold", "train")) -> None:
    problems = []
    for label in sorted(set().union(*counts.values())):
        n = sum(counts[name][label] for name in SPLITS)
        for name in needed:
            if not counts[name][label]:
                what = f'label "{label}" ({n} rows)' if label else "every row"
                fix = "add rows of it from other groups, merge it with another label, leave it out, or ask for a larger gold share"
                problems.append(Problem("data.split", f"{what} has no row in {name}", fix))
    if problems:
        raise InputError(*problems)
