"""Dividing rows into train, validation and gold: no group and no question ever lies on two sides, and no stored row ever moves (MISSION D8).

The first split is a label-stratified greedy over units in hash order; a unit is the rows joined by a shared group, a shared question (every duplicate cluster
lies inside one) or a near-duplicate cluster. Given times, the units are taken in order of time instead: the newest are gold. Growth keeps every stored
assignment and places new units by hash. `unused` holds gold rows over `gold_max`: kept out of training, because their groups are in gold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from planish.data.parallel import uncollected
from planish.data.split import SPLITS, Split, SplitName, label_of, refuse_absent
from planish.data.split_by_time import by_time, oldest_first
from planish.data.split_growth import group_leaks, grown
from planish.data.split_stratified import stratified
from planish.data.split_units import by_hash, clusters_of, hashed, refuse_giant, units_of
from planish.data.table import Keys, Table
from planish.errors import InputError, Problem


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
    cluster = clusters_of(together)
    stored = {row.id: existing[row.id] for row in rows.keys if row.id in existing} if existing else {}
    findings = group_leaks(rows.keys, cluster, stored) if stored else []
    leaked = {finding.row_id for finding in findings}
    placed = [row for row in rows.keys if row.id not in leaked] if leaked else rows.keys
    if not placed:
        raise InputError(Problem("data.split", "no row is left to divide: all were set aside", "see why: planish check FILE"))
    units = units_of(placed, cluster)
    refuse_giant(units, len(placed))
    targets: dict[SplitName, float] = {"train": 1 - validation - gold, "validation": validation, "gold": gold}
    if stored:
        chosen = grown(units, stored, targets, seed)
    else:
        wanted = {name: share for name, share in targets.items() if share > 0}
        chosen = by_time(units, oldest_first(units, times), wanted) if times is not None else stratified(units, by_hash(units, seed), wanted)
    assignment = {row.id: name for unit, name in zip(units, chosen, strict=True) for row in unit}
    assignment.update(stored)
    if gold_max is not None:
        assignment |= _over_cap([row for row in placed if assignment[row.id] == "gold"], gold_max, stored, seed)
    sides = [assignment[row.id] for row in placed]
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for (name, label), n in Counter(zip(sides, [row.label or "" for row in placed], strict=True)).items():
        counts[name][label] = n
    refuse_absent(counts, needed=("gold", "train") if gold else ("train",))
    return Split(
        assignment=dict(zip([row.id for row in placed], sides, strict=True)),
        shares={name: counts[name].total() / len(placed) for name in SPLITS},
        counts={name: dict(sorted(counts[name].items())) for name in SPLITS},
        seed=seed,
        findings=tuple(findings),
    )


def _over_cap(candidates: Sequence[Keys], gold_max: int, stored: Mapping[str, SplitName], seed: int) -> dict[str, SplitName]:
    """What the cap leaves out of gold. Rows are kept label by label in hash order: many groups with a few rows each tell more than few whole groups."""
    fresh = [row for row in candidates if row.id not in stored]
    room = max(0, gold_max - (len(candidates) - len(fresh)))
    if len(fresh) <= room:
        return {}
    by_label: dict[str, list[Keys]] = defaultdict(list)
    for row in sorted(fresh, key=lambda row: (hashed(seed, f"row {row.id}"), row.id)):
        by_label[label_of(row)].append(row)
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
