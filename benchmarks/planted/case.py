"""What a case of the suite is: a small data set, what is asked of it, and what must be said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REFUSED = "refused"
"""The code of a file, a split or a gold set that is refused as a whole; single rows have the codes of `planish.rows`."""


@dataclass(frozen=True)
class Expected:
    """One thing that must be said: the code, the 1-based lines it is said of, and words that the reason must hold.

    No lines: it is said of the data set as a whole.
    """

    code: str
    lines: tuple[int, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Said:
    """One thing that was said."""

    code: str
    line: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Ask:
    """What a user tells planish about the data. The defaults are those of `planish check FILE`.

    `labels` is the declared set; `group_by` the column no split may cut; `split` gives lines their split (a gold line is never trained on); `template` names
    one of `templates.TEMPLATES` (a sound one without it), `max_length` is in tokens; `languages` are the declared ones; `locale` chooses
    the recognisers of personal data; `gold` holds a file of gold rows that must not
    be trained on; `lock` is the lock that lies beside the file.
    """

    shape: str | None = None
    labels: tuple[str, ...] | None = None
    group_by: str | None = None
    split: Mapping[int, str] | None = None
    template: str | None = None
    max_length: int | None = None
    languages: tuple[str, ...] | None = None
    locale: str | None = None
    gold: bytes | None = None
    lock: bytes | None = None


@dataclass(frozen=True)
class Case:
    """A planted defect, or with no `expected` a clean set. `part` is the part of the data line it belongs to, `data` the bytes of the file `file`.

    `also` lists codes that may be said too, because the defect has that consequence; anything else said is a false alarm. A clean set may have none.
    `limit` says why planish does not find the defect: it stays in the table, as missed.
    """

    name: str
    part: str
    what: str
    file: str
    data: bytes
    expected: tuple[Expected, ...] = ()
    ask: Ask = field(default_factory=Ask)
    also: tuple[str, ...] = ()
    limit: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing may be said of it."""
        return not self.expected


@dataclass(frozen=True)
class Verdict:
    """How what was said compares with what had to be said. For a clean set the first three are true when nothing was said."""

    found: bool  # something was said with one of the expected codes, or the file was refused
    code: bool  # every expected code was said, with its reason's words
    rows: bool  # exactly the expected lines were named
    false_alarms: tuple[Said, ...]

    @property
    def right(self) -> bool:
        """Found, named, and nothing else said."""
        return self.found and self.code and self.rows and not self.false_alarms


def judge(case: Case, said: Sequence[Said]) -> Verdict:
    """Compare what was said of a case with what had to be said. Order and repetition do not matter."""
    codes = {expected.code for expected in case.expected}
    alarms = tuple(one for one in said if one.code not in codes and one.code not in case.also)
    named = {code: {one.line for one in said if one.code == code and one.line is not None} for code in codes}
    return Verdict(
        found=not case.expected or any(one.code in codes for one in said),
        code=all(any(one.code == expected.code and expected.why in one.why for one in said) for expected in case.expected),
        rows=all(named[code] == {line for expected in case.expected if expected.code == code for line in expected.lines} for code in codes),
        false_alarms=alarms,
    )


def jsonl(rows: Sequence[Any]) -> bytes:
    """Rows as JSON lines; a row that is bytes stands as it is."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()) + b"\n" for row in rows)


def planted(rows: Sequence[Any], at: Mapping[int, Any]) -> list[Any]:
    """The rows with some replaced: 1-based line -> row."""
    return [at.get(number, row) for number, row in enumerate(rows, start=1)]


def dialogue(*turns: str, system: str | None = None) -> dict[str, Any]:
    """A chat row whose turns alternate, the user's first."""
    messages = [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return {"messages": ([{"role": "system", "content": system}] if system is not None else []) + messages}


def among(
    rows: Sequence[Any], at: Mapping[int, Any], part: str, name: str, what: str, code: str, *, also: tuple[str, ...] = (), ask: Ask | None = None
) -> Case:
    """A case of rows planted among sound ones, all of which must be named with one code."""
    return Case(f"{part}/{name}", part, what, "rows.jsonl", jsonl(planted(rows, at)), (Expected(code, tuple(sorted(at))),), ask or Ask(), also)
