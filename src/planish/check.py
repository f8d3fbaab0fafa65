"""Rows under every check, with nothing stored: what `planish check FILE` shows before a recipe is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from planish.data.finding import CheckResult, Finding
from planish.data.gold import require_apart
from planish.data.reading import Reading, read_rows
from planish.data.table import Table
from planish.data.task import Task, infer, make, row_shape
from planish.errors import InputError, MissingExtra
from planish.recipe_data import TaskShape
from planish.recipe_keys import Use
from planish.rows import NoteCode, RejectedRow, canonical_json
from planish.shelf import shelf
from planish.stages._examined import across, conversations, run_check, says
from planish.store.objects import write_atomic

T = TypeVar("T")


@dataclass(frozen=True)
class Checked:
    """What became of every row. `lines` gives the line of an accepted row by its id, `files` the file of one that a check names; `skipped` why a check was not made;
    `mapping` what columns of other names were read as."""

    counts: dict[str, int]
    task: Task | None
    rejected: tuple[RejectedRow, ...]
    found: dict[str, CheckResult]
    skipped: dict[str, str]
    lines: Mapping[str, int]
    files: Mapping[str, str]
    mapping: Mapping[str, str]

    @property
    def warnings(self) -> list[Finding]:
        """What is pointed out without setting a row aside."""
        return [finding for result in self.found.values() for finding in result.findings if finding.severity == "warn"]

    @property
    def exit_code(self) -> int:
        """2 where any row is set aside."""
        return 2 if self.rejected else 0


def check_rows(
    path: Path,
    *,
    gold: Path | None = None,
    task: TaskShape | None = None,
    labels: Sequence[str] | None = None,
    group_by: str | None = None,
    mixed: bool = False,
    checks: Sequence[Use] | None = None,
    chat: Callable[[], Any] | None = None,
    running: Callable[[str], None] = lambda _: None,
) -> Checked:
    """Hold the rows to their contract and to `checks` (None: every one that can be made here; those that cannot are named in `skipped`).

    `gold` is a file of rows that must not be trained on; `chat` loads a model's tokenizer and template, for the checks that look at tokens.
    Raises InputError where a file cannot be read, where its rows are of several shapes and `mixed` is false, and where a check that was asked for cannot be made.
    """
    if gold is not None:
        require_apart(path, gold, f"--gold {gold}")
    paths = [path] if gold is None else [path, gold]
    reading = read_rows(*paths, shape=row_shape(task) if task else None, labels=labels, group_by=group_by, mixed=mixed, strict=False)
    every = reading.accepted
    found: dict[str, CheckResult] = {}
    skipped: dict[str, str] = {}
    made = _task(task, reading)
    if absent := sorted(set(labels or ()) - {key.label for key in reading.accepted.keys}):
        found["labels"] = CheckResult(findings=tuple(map(_absent, absent)))
    if leaks := across(every.without(reading.behind), every.where(key.id in reading.behind for key in every.keys)):
        found["groups"] = CheckResult(findings=leaks)
        reading = reading.set_aside(leaks)
    asked = checks if checks is not None else [Use(name=name) for name in shelf("checks")]
    for use in sorted(asked, key=lambda use: says(use.name, "AFTER_SPLIT")):
        try:
            why = _unable(use.name, made, gold is not None, chat is not None)
            if why is None:
                running(use.name)
                split = {row_id: "gold" if row_id in reading.behind else "train" for row_id in reading.accepted.ids} if gold is not None else None
                rows = conversations(reading.accepted, made) if made is not None and says(use.name, "TOKENS") else reading.accepted
                found[use.name] = run_check(use, rows, split, chat or _no_chat)
                reading = reading.set_aside(found[use.name].findings)
        except (MissingExtra, InputError) as refused:
            if checks is not None:
                raise
            why = "; ".join(f"{problem.why}: {problem.fix}" for problem in refused.problems)
        if why is not None:
            skipped[use.name] = why
    lines = {key.id: key.line for key in every.keys}
    return Checked(reading.counts, made, reading.rejected, found, skipped, lines, _files(every, found), reading.mapping)


def _files(rows: Table, found: Mapping[str, CheckResult]) -> dict[str, str]:
    """The file of every row that a check names."""
    named = {finding.row_id for result in found.values() for finding in result.findings}
    return {row.id: row.origin.file for row in rows.where(key.id in named for key in rows.keys)}


def _absent(label: str) -> Finding:
    why, fix = f'no row is labelled "{label}", which is declared', "add rows of it, or take it out of the labels"
    return Finding(row_id=None, code=NoteCode.CLASS_RARE, severity="warn", why=why, fix=fix)


def _no_chat() -> Any:
    raise AssertionError("a check of tokens runs only with a tokenizer")


def _task(shape: TaskShape | None, reading: Reading) -> Task | None:
    """The task as given or as the rows say; None for documents, which ask nothing."""
    shapes = {key.shape for key in reading.accepted.keys}
    if shape is None and (not shapes or "text" in shapes):
        return None
    if shape is None:
        shape = infer(shapes, tools=shapes == {"chat"} and any(getattr(row, "tools", ()) for row in reading.accepted))
    return Task(shape=shape, labels=reading.labels) if shape == "classification" and len(reading.labels) < 2 else make(shape, reading.labels)


def _unable(check: str, task: Task | None, gold: bool, chat: bool) -> str | None:
    """Why a check cannot be made of these rows, if it cannot."""
    if says(check, "AFTER_SPLIT") and not gold:
        return "compares splits: give --gold FILE, or run a recipe"
    if says(check, "TOKENS") and not chat:
        return "looks at tokens: give --model NAME"
    if says(check, "TOKENS") and task is None:
        return "looks at answers, and documents have none"
    return None


SHOWN = 5
"""Rows named per reason; `--out` keeps them all."""


def as_json(checked: Checked) -> dict[str, Any]:
    """Everything, for a script."""
    return {
        "counts": checked.counts,
        "mapping": dict(checked.mapping),
        "task": checked.task.shape if checked.task is not None else None,
        "rejected": [row.model_dump(mode="json") for row in checked.rejected],
        "findings": [_finding(checked, name, finding) for name, result in checked.found.items() for finding in result.findings],
        "figures": {name: result.figures for name, result in checked.found.items()},
        "skipped": checked.skipped,
    }


def write(checked: Checked, folder: Path) -> None:
    """`rejected.jsonl` and `findings.jsonl`, one row a line."""
    write_atomic(folder / "rejected.jsonl", (_line(row.model_dump(mode="json")) for row in checked.rejected))
    found = (_line(_finding(checked, name, finding)) for name, result in checked.found.items() for finding in result.findings)
    write_atomic(folder / "findings.jsonl", found)


def text(checked: Checked) -> str:
    """What a person reads: what was set aside by reason with its first rows, then what to look at, then what was not checked."""
    counts = checked.counts
    lines = [f"{counts['n_in']} rows read, {counts['n_accepted']} accepted, {counts['n_rejected']} set aside"]
    if checked.mapping:
        lines.append("columns read as: " + ", ".join(f"{column} → {key}" for column, key in checked.mapping.items()))
    for code, rows in _by_code((row.code.value, row) for row in checked.rejected).items():
        lines.append(f"\n{code}: {len(rows)}")
        alike = len({row.fix for row in rows[:SHOWN]}) == 1
        lines += [f"  {row.file}:{row.line} {row.why}" + ("" if alike else f"; fix: {row.fix}") for row in rows[:SHOWN]]
        lines += [f"  … and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        lines += [f"  fix: {rows[0].fix}"] if alike else []
    warned = _by_code((finding.code.value, finding) for finding in checked.warnings)
    if warned:
        lines.append("\nto look at; these rows stay:")
    for code, findings in warned.items():
        lines.append(f"  {code}: {len(findings)}")
        lines += [f"    {_where(checked, finding)} {finding.why}" for finding in findings[:SHOWN]]
    if checked.skipped:
        lines.append("\nnot checked:")
        lines += [f"  {name}: {why}" for name, why in checked.skipped.items()]
    return "\n".join(lines)


def _by_code(items: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = defaultdict(list)
    for code, item in items:
        found[code].append(item)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _where(checked: Checked, finding: Finding) -> str:
    if finding.row_id is None:
        return "the whole set"
    return f"{checked.files[finding.row_id]}:{checked.lines[finding.row_id]}"


def _finding(checked: Checked, check: str, finding: Finding) -> dict[str, Any]:
    line = checked.lines[finding.row_id] if finding.row_id is not None else None
    return {"check": check, "file": checked.files.get(finding.row_id or ""), "line": line, **finding.model_dump(mode="json")}


def _line(value: dict[str, Any]) -> bytes:
    return (canonical_json(value) + "\n").encode()
