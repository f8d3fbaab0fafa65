"""Rows under their checks and in their splits: what the prepare stage stores, and what `planish check` shows without storing anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish import shelf
from planish.data.divide import divide
from planish.data.finding import CheckResult, Finding
from planish.data.reading import Reading
from planish.data.same_prompt import same_prompt
from planish.data.split import Split, SplitName
from planish.data.table import Table
from planish.data.task import Task
from planish.recipe_data import SplitSection
from planish.recipe_keys import Use
from planish.rows import RejectCode


@dataclass(frozen=True)
class Examined:
    """The reading without the rows that a check set aside, where each row goes, and what every check found by its name."""

    reading: Reading
    split: Split
    found: dict[str, CheckResult]


@dataclass(frozen=True)
class Places:
    """How rows are divided: the section of the recipe, what is stored already, the ids that come as gold, and when each row was made."""

    section: SplitSection
    existing: Mapping[str, SplitName] | None = None
    gold_ids: frozenset[str] = frozenset()
    times: Mapping[str, str | float] | None = None
    copies: bool = False  # rows that ask what gold rows of one's own ask are set aside here, as no check looks for them

    def divide(self, rows: Table, together: Sequence[Sequence[str]]) -> Split:
        """The split of these rows; rows that come as gold are gold, and nothing else is: other rows of their groups are set aside."""
        shares: dict[str, Any] = {
            "validation": self.section.validation,
            "gold": self.section.gold,
            "gold_max": self.section.gold_max,
            "seed": self.section.seed,
        }
        if not self.gold_ids:
            return divide(rows, existing=self.existing, together=together, times=self.times, **shares)
        own = rows.where(key.id in self.gold_ids for key in rows.keys)
        others = rows.without(self.gold_ids)
        leaks = across(others, own, copies=self.copies)
        others = others.without({leak.row_id for leak in leaks if leak.row_id is not None})
        existing: dict[str, SplitName] = {row_id: "unused" if name == "gold" else name for row_id, name in (self.existing or {}).items()}
        divided = divide(others, existing=existing, together=together, times=self.times, **shares | {"gold": 0.0, "gold_max": 0})
        return divided.with_gold(own).model_copy(update={"findings": (*leaks, *divided.findings)})


def across(rows: Table, gold: Table, *, copies: bool = False) -> tuple[Finding, ...]:
    """A finding for each row of a group that gold rows of one's own are of, and with `copies` for each that asks what one of them asks: gold never goes."""
    held = {key.group: key.id for key in gold.keys if key.group is not None}
    asked = {key.question: key.id for key in gold.keys} if copies else {}
    copied = tuple(
        Finding(
            row_id=key.id,
            code=RejectCode.GOLD_OVERLAP,
            severity="reject",
            why=f"asks what gold row {asked[key.question]} asks",
            fix="leave it out: what is trained on proves nothing",
            see=asked[key.question],
        )
        for key in rows.keys
        if key.question in asked and (key.group is None or key.group not in held)
    )
    fix = "leave it out, or take gold rows of other groups: rows of one group know each other's answers"
    return copied + tuple(
        Finding(
            row_id=key.id,
            code=RejectCode.GROUP_LEAK,
            severity="reject",
            why=f'is of group "{key.group}", as gold row {held[key.group]} is',
            fix=fix,
            see=held[key.group],
        )
        for key in rows.keys
        if key.group is not None and key.group in held
    )


def examine(
    reading: Reading, task: Task, checks: Sequence[Use], places: Places, chat: Callable[[], Any], running: Callable[[str], None] = lambda _: None
) -> Examined:
    """Every check in its order, those that compare splits last. `chat` loads tokenizer and template, for the checks that look at tokens.

    The split is made once the other checks are done; what a check that compares splits sets aside leaves it, and no other row moves: a row that moved to another side
    would have to be looked for again there.
    """
    found: dict[str, CheckResult] = {}
    together: list[Sequence[str]] = [*same_prompt(reading.accepted)]
    held = dict.fromkeys(places.gold_ids, "gold")
    split: Split | None = None
    talk: Table | None = None
    for use in sorted(checks, key=lambda use: says(use.name, "AFTER_SPLIT")):
        running(use.name)
        known: Mapping[str, str] | None = held or None
        if says(use.name, "AFTER_SPLIT"):
            split = split or places.divide(reading.accepted, together)
            known = split.assignment
        rows = reading.accepted
        if says(use.name, "TOKENS"):
            rows = talk = conversations(rows, task) if talk is None else talk
        found[use.name] = run_check(use, rows, known, chat)
        together += found[use.name].together
        aside = {finding.row_id for finding in found[use.name].findings if finding.severity == "reject"}
        if aside or found[use.name].together:
            if split is not None:
                split = split.without(reading.accepted.where(key.id in aside for key in reading.accepted.keys))
            reading = reading.set_aside(found[use.name].findings)
            talk = talk.where(key.id not in aside for key in talk.keys) if talk is not None else None
    split = split or places.divide(reading.accepted, together)
    return Examined(reading.set_aside(split.findings), split, found)


def run_check(use: Use, rows: Table, split: Mapping[str, str] | None, chat: Callable[[], Any]) -> CheckResult:
    """What one check says of these rows; one that looks at tokens is given them as dialogues, and the tokenizer."""
    result: CheckResult = shelf.call("checks", use.name, "check", use.options)(rows, split, chat() if says(use.name, "TOKENS") else None)
    return result


def says(check: str, constant: str) -> bool:
    """Whether a check's file declares this of itself: AFTER_SPLIT, it compares splits; TOKENS, it needs a tokenizer and its template."""
    return bool(getattr(shelf.find("checks", check).load(), constant, False))


def conversations(rows: Table, task: Task) -> Table:
    """The rows as the dialogues they are trained as."""
    if all(key.shape == "chat" for key in rows.keys):
        return rows
    return Table.of(task.conversation(row) for row in rows)
