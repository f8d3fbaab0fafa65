"""A split: where every row of a data set went, train, validation, gold or unused, and in what shares (MISSION D8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from planish.data.finding import Finding
from planish.data.table import Keys, Table
from planish.errors import InputError, Problem
from planish.rows import Noun

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
            counts[name][label_of(key)] -= 1
        counts = {name: +count for name, count in counts.items()}
        refuse_absent(counts)
        left = set(rows.ids)
        assignment = {row_id: name for row_id, name in self.assignment.items() if row_id not in left}
        shares = {str(name): counts[name].total() / max(1, len(assignment)) for name in SPLITS}
        kept = {name: dict(sorted(count.items())) for name, count in counts.items()}
        return Split(assignment=assignment, shares=shares, counts=kept, seed=self.seed, findings=self.findings)

    def with_gold(self, rows: Table) -> Split:
        """This split and rows that come as gold. Raises InputError when a label of theirs has no row in train, or one of train none in theirs."""
        assignment = self.assignment | dict.fromkeys(rows.ids, "gold")
        counts = self.counts | {"gold": dict(sorted(Counter(label_of(row) for row in rows.keys).items()))}
        refuse_absent({name: Counter(count) for name, count in counts.items()})
        shares = {str(name): sum(counts[name].values()) / len(assignment) for name in SPLITS}
        return Split(assignment=assignment, shares=shares, counts=counts, seed=self.seed, findings=self.findings)


def label_of(row: Keys) -> str:
    """The label that a row counts under; that of rows without one is empty."""
    return row.label or ""


def refuse_absent(counts: Mapping[str, Counter[str]], needed: Sequence[str] = ("gold", "train")) -> None:
    """Raises InputError, with every label, where one of `counts` (split -> label -> rows) has no row in a split that needs it."""
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
