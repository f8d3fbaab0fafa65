"""What planish says of a case: `planish check` for rows, the gold file's own reading for a gold set, the split for what only a split can see."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.planted.case import REFUSED, Case, Said
from benchmarks.planted.templates import tokenizer

from planish.check import Checked, check_rows
from planish.data import gold, gold_lock
from planish.data.divide import divide
from planish.data.reading import read_rows
from planish.data.task import make
from planish.errors import InputError
from planish.recipe_keys import Use
from planish.shelf import call, shelf


def ask(case: Case, *, without: Collection[str] = ()) -> list[Said]:
    """Everything planish says of the case, row by row; a refusal of the whole is one saying. `without` names checks that are left out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / case.file
        path.write_bytes(case.data)
        try:
            if case.ask.lock is not None:
                gold_lock.lock_path(path).write_bytes(case.ask.lock)
            if case.part == "gold files":
                return _gold(path)
            if case.part == "splits":
                return _split(case, path)
            if "validation" in (case.ask.split or {}).values():
                return _leaks(case, path)
            return _rows(case, path, without)
        except InputError as refused:
            return [Said(REFUSED, None, "; ".join(map(str, refused.problems)))]


def _rows(case: Case, path: Path, without: Collection[str]) -> list[Said]:
    """`planish check FILE --model FOLDER [--gold FILE]` with every check there is."""
    task = "classification" if case.ask.labels is not None else None
    held = path.with_name("gold.jsonl") if case.ask.gold is not None or case.ask.split is not None else None
    if held is not None and case.ask.gold is not None:
        held.write_bytes(case.ask.gold)
    elif held is not None and case.ask.split is not None:
        lines = case.data.splitlines(keepends=True)
        path.write_bytes(b"".join(line for number, line in enumerate(lines, start=1) if case.ask.split[number] != "gold"))
        held.write_bytes(b"".join(line for number, line in enumerate(lines, start=1) if case.ask.split[number] == "gold"))
    made = check_rows(
        path,
        gold=held,
        task=task,
        labels=case.ask.labels,
        group_by=case.ask.group_by,
        checks=_checks(case, without),
        chat=lambda: _chat(case.ask.template or "sound"),
    )
    return _said(made, path.name)


def _said(made: Checked, file: str) -> list[Said]:
    """What was said of the rows; of a gold row nothing may be, so its line is left out and its code can be no expected one."""
    said = [Said(row.code.value, row.line, row.why) if row.file == file else Said(f"gold row: {row.code.value}", None, row.why) for row in made.rejected]
    return said + [Said(one.code.value, made.lines[one.row_id] if one.row_id is not None else None, one.why) for one in made.warnings]


def _checks(case: Case, without: Collection[str]) -> list[Use]:
    """Every check on the shelf that can be made of the case, with what the user told of it."""
    told: dict[str, dict[str, Any]] = {}
    if case.ask.max_length is not None:
        told["truncation"] = {"max_length": case.ask.max_length}
    if case.ask.languages is not None:
        told["language"] = {"expected": list(case.ask.languages)}
    if case.ask.locale is not None:
        told["pii"] = {"locales": [case.ask.locale]}
    return [Use(name=name, options=told.get(name, {})) for name in shelf("checks") if name not in without and _can(name, case)]


def _can(name: str, case: Case) -> bool:
    """Whether there is anything to compare, for a check that compares splits."""
    return not getattr(shelf("checks")[name].load(), "AFTER_SPLIT", False) or case.ask.split is not None or case.ask.gold is not None


@cache
def _chat(template: str) -> Any:
    from planish.model.chat import Chat

    with tempfile.TemporaryDirectory() as folder:
        tokenizer(template).save_pretrained(folder)
        return Chat.load(Path(folder))


def _gold(path: Path) -> list[Said]:
    """Reading a gold file: one that planish sealed, or one of the user's own that was locked."""
    if path.suffix == ".json":
        gold.read(path)
    elif gold_lock.read_lock(path) is not None:
        read_rows(path)
    return []


def _leaks(case: Case, path: Path) -> list[Said]:
    """The check that compares splits, with a validation split, which only a recipe makes."""
    rows = read_rows(path).accepted
    lines = {key.id: key.line for key in rows.keys}
    split = {key.id: (case.ask.split or {})[key.line] for key in rows.keys}
    found = call("checks", "leakage", "check", {})(rows, split)
    return [Said(one.code.value, lines[one.row_id], one.why) for one in found.findings]


def _split(case: Case, path: Path) -> list[Said]:
    """The split that the prepare stage makes, or makes again where one is stored."""
    reading = read_rows(path, shape="label", labels=case.ask.labels, group_by=case.ask.group_by)
    make("classification", reading.labels)
    ids = {key.line: key.id for key in reading.accepted.keys}
    stored = {ids[line]: name for line, name in case.ask.split.items()} if case.ask.split else None
    lines = {row_id: line for line, row_id in ids.items()}
    made = divide(reading.accepted, existing=stored)
    return [Said(one.code.value, lines[one.row_id], one.why) for one in made.findings if one.row_id is not None]
