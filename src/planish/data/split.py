"""Train, validation and gold: no group and no question ever lies on two sides, and no stored row ever moves (MISSION D8).

The first split is a label-stratified greedy over units in hash order; a unit is the rows joined by a shared group, a shared question (every duplicate cluster
lies inside one) or a near-duplicate cluster. Given times, the units are taken in order of time instead: the newest are gold. Growth keeps every stored
assignment and places new units by hash. `unused` holds gold rows over `gold_max`: kept out of training, because their groups are in gold.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

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


class _Unit:
    """Rows that travel together, and how many of each label they are."""

    __slots__ = ("key", "labels", "rows")

    def __init__(self, key: str, rows: list[Keys]) -> None:
        self.key = key
        self.rows = rows
        self.labels = dict(Counter(map(_label, rows))) if len(rows) > 1 else {_label(rows[0]): 1}


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
    cluster = {row_id: f"cluster {number}" for number, ids in enumerate(together) for row_id in ids}
    joined = [_Joined(row, _joins(row, cluster)) for row in rows.keys]
    stored = {row.id: existing[row.id] for row in rows.keys if row.id in existing} if existing else {}
    findings = _group_leaks(joined, stored) if stored else []
    leaked = {finding.row_id for finding in findings}
    placed = [row for row in joined if row.keys.id not in leaked]
    units = _in_order(_units(placed), seed, times)
    _refuse_giant(units, len(placed))
    targets: dict[SplitName, float] = {"train": 1 - validation - gold, "validation": validation, "gold": gold}
    if stored:
        chosen = _grow(units, stored, targets, seed)
    else:
        wanted = {name: share for name, share in targets.items() if share > 0}
        chosen = _by_time(units, wanted) if times is not None else _greedy(units, wanted)
    assignment: dict[str, SplitName] = {}
    for unit, name in zip(units, chosen, strict=True):
        for row in unit.rows:
            assignment[row.id] = stored.get(row.id, name)
    if gold_max is not None:
        assignment |= _over_cap([row.keys for row in placed if assignment[row.keys.id] == "gold"], gold_max, stored, seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for (name, label), n in Counter((assignment[row.keys.id], _label(row.keys)) for row in placed).items():
        counts[name][label] = n
    _refuse_absent(counts, needed=("gold", "train") if gold else ("train",))
    return Split(
        assignment={row.keys.id: assignment[row.keys.id] for row in placed},
        shares={name: counts[name].total() / len(placed) for name in SPLITS},
        counts={name: dict(sorted(counts[name].items())) for name in SPLITS},
        seed=seed,
        findings=tuple(findings),
    )


class _Joined(NamedTuple):
    """A row with what ties it to others."""

    keys: Keys
    joins: tuple[str, ...]


def _label(row: Keys) -> str:
    return row.label or ""


def _hash(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")


def _joins(row: Keys, cluster: Mapping[str, str]) -> tuple[str, ...]:
    """What ties a row to others: its group, its question, its cluster. A question sorts behind every group, so a unit is named by its groups first."""
    question = f"question {row.question.hex()}"
    if row.group is None and row.id not in cluster:
        return (question,)
    near = (cluster[row.id],) if row.id in cluster else ()
    return ((f"group {row.group}",) if row.group is not None else ()) + (question, *near)


def _units(rows: Sequence[_Joined]) -> list[_Unit]:
    """Connected components over what joins rows, each named by its smallest group, else its smallest question, whatever the order of the rows."""
    root: dict[str, str] = {}

    def find(key: str) -> str:
        at = root.setdefault(key, key)
        while root[at] != at:
            root[at] = root[root[at]]
            at = root[at]
        return at

    for row in rows:
        for key in row.joins[1:]:
            first, second = find(row.joins[0]), find(key)
            root[second] = first
    members: dict[str, list[_Joined]] = defaultdict(list)
    for row in rows:
        members[find(row.joins[0]) if root else row.joins[0]].append(row)
    return [_unit(unit) for unit in members.values()]


def _unit(rows: Sequence[_Joined]) -> _Unit:
    if len(rows) == 1:
        joins = rows[0].joins
        return _Unit(joins[0] if len(joins) == 1 else min(joins[:2], key=_cluster_last), [rows[0].keys])
    return _Unit(min((key for row in rows for key in row.joins), key=_cluster_last), sorted((row.keys for row in rows), key=lambda keys: keys.id))


def _cluster_last(join: str) -> tuple[bool, str]:
    """The numbers of clusters follow the order of the rows, so a cluster never names a unit."""
    return join.startswith("cluster "), join


def _in_order(units: list[_Unit], seed: int, times: Mapping[str, str | float] | None) -> list[_Unit]:
    """By hash, or from the oldest to the newest; a unit is as new as its newest row."""
    if times is None:
        return sorted(units, key=lambda unit: _hash(seed, unit.key))
    missing = [row.id for unit in units for row in unit.rows if row.id not in times]
    if missing:
        raise InputError(Problem("data.split.time_by", f"{len(missing)} rows have no time, the first is {missing[0]}", "give every row its time"))
    return sorted(units, key=lambda unit: (max(times[row.id] for row in unit.rows), unit.key))


def _by_time(units: Sequence[_Unit], targets: Mapping[SplitName, float]) -> list[SplitName]:
    """Train from the oldest on, then validation, gold the newest; each side closes once it has its share of the rows."""
    total, chosen, done = sum(len(unit.rows) for unit in units), list[SplitName](), 0
    sides = [name for name in SPLITS if name in targets]  # train, validation, gold
    ends = [total * sum(targets[side] for side in sides[: index + 1]) for index in range(len(sides))]
    for unit in units:
        middle = done + len(unit.rows) / 2
        chosen.append(next((side for side, end in zip(sides, ends, strict=True) if middle < end), sides[-1]))
        done += len(unit.rows)
    return chosen


def _greedy(units: Sequence[_Unit], targets: Mapping[SplitName, float]) -> list[SplitName]:
    """Each unit, in hash order, to the split whose label counts it brings nearest to their targets.

    The distance is the sum over splits and labels of (have - want)^2 / want; for units of one row this is the Sainte-Laguë rule of proportional seats.
    """
    totals: Counter[str] = Counter()
    for unit in units:
        for label, n in unit.labels.items():
            totals[label] += n
    have: dict[SplitName, Counter[str]] = {name: Counter() for name in targets}
    sides = [(name, have[name], {label: count * share for label, count in totals.items()}) for name, share in targets.items()]
    chosen: list[SplitName] = []
    # most units are one row: what it would cost on each side
    single = {label: [(1 + 2 * (held[label] - want[label])) / want[label] for _, held, want in sides] for label in totals}
    for unit in units:
        costs = single[next(iter(unit.labels))] if len(unit.rows) == 1 else [_cost(unit.labels, held, want) for _, held, want in sides]
        best = costs.index(min(costs))
        name, held, want = sides[best]
        for label, n in unit.labels.items():
            held[label] += n
            single[label][best] = (1 + 2 * (held[label] - want[label])) / want[label]
        chosen.append(name)
    if "gold" in targets:
        _lend_to_gold(units, chosen, have)
    return chosen


def _cost(labels: Mapping[str, int], held: Mapping[str, int], want: Mapping[str, float]) -> float:
    """What rows of these labels add to the distance of a side."""
    cost = 0.0
    for label, n in labels.items():
        cost += n * (n + 2 * (held[label] - want[label])) / want[label]
    return cost


def _lend_to_gold(units: Sequence[_Unit], chosen: list[SplitName], have: Mapping[SplitName, Counter[str]]) -> None:
    """A label too rare for its share of gold still needs one row there: move the smallest training unit that has it, if train keeps every label."""
    for label in sorted(have["train"]):
        if have["gold"][label]:
            continue
        able = [
            index
            for index, unit in enumerate(units)
            if chosen[index] == "train" and unit.labels.get(label) and all(have["train"][other] > n for other, n in unit.labels.items())
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


def _group_leaks(rows: Sequence[_Joined], stored: Mapping[str, SplitName]) -> list[Finding]:
    """New rows that join stored rows of different splits: those that touch two sides themselves, or, where only a chain does, the chain's new rows."""
    findings: list[Finding] = []
    remaining, joins = list(rows), {row.keys.id: row.joins for row in rows}
    while conflicts := [unit for unit in _units(remaining) if len({_side(stored[row.id]) for row in unit.rows if row.id in stored}) > 1]:
        leaked: dict[str, Finding] = {}
        for unit in conflicts:
            old = [row for row in unit.rows if row.id in stored]
            new = [row for row in unit.rows if row.id not in stored]
            if not new:
                raise _stored_conflict(unit, stored)
            sides: dict[str, dict[SplitName, str]] = defaultdict(dict)  # join -> side -> a stored row there
            for row in old:
                for key in joins[row.id]:
                    sides[key][_side(stored[row.id])] = row.id
            touching = {row.id: {side: other for key in joins[row.id] for side, other in sides[key].items()} for row in new}
            direct = [row for row in new if len(touching[row.id]) > 1]
            for row in direct or new:
                leaked[row.id] = _leak(row, touching[row.id])
        findings += [leaked[row.keys.id] for row in remaining if row.keys.id in leaked]
        remaining = [row for row in remaining if row.keys.id not in leaked]
    return findings


def _leak(row: Keys, touches: Mapping[SplitName, str]) -> Finding:
    named = " and ".join(f"{side} ({other})" for side, other in sorted(touches.items())) or "stored rows of different splits, through other new rows"
    see = next((touches[side] for side in ("gold", "validation", "train") if side in touches), None)
    fix = "leave it out: its group and its question lie on two sides, and stored rows never move"
    return Finding(row_id=row.id, code=RejectCode.GROUP_LEAK, severity="reject", why=f"joins {named}", fix=fix, see=see)


def _stored_conflict(unit: _Unit, stored: Mapping[str, SplitName]) -> InputError:
    lying = ", ".join(f"{row.id} in {stored[row.id]}" for row in unit.rows[:5])
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


def _refuse_giant(units: Iterable[_Unit], n: int) -> None:
    for unit in units:
        if len(unit.rows) * 2 > n:
            why = f"{len(unit.rows)} of {n} rows belong together ({unit.key}), more than half"
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
