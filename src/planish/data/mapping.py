"""Columns with unknown names: what they may be, how sure that is, and what to write into the recipe (MISSION D3).

Every way to read the columns as one of our formats is tried on a sample of 20 to 200 rows. `confidence = share of rows that pass the contract x (1 - ambiguity)`,
`ambiguity = rows that the second best reading passes / rows that the best passes`. At 0.80 a mapping is used; below, and at any tie, the user is asked. A high
confidence is about shape only: that the rows pass says nothing of whether they are right.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from textwrap import indent
from typing import Any

from planish.data.column_names import BESIDE, NAMES, OPTIONAL
from planish.data.contract import row_from
from planish.data.fault import Fault, Refused
from planish.data.formats import FORMATS, Format, Record, detect
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import Noun, Origin, RejectCode

Value = dict[str, Any]

ENOUGH = 0.80
SAMPLE = 200
FEW = 20
"""Fewer rows than this settle nothing."""

MOST_UNKNOWN = 8
"""Columns of unknown name that are tried for a key; a table has hundreds, and each further one multiplies the readings."""


class Reading(Noun):
    """One way to read the columns. `counts` is its dry run: rows accepted, and rows refused by reason. `mapping` has the columns that are renamed."""

    format: str
    shape: str
    mapping: dict[str, str]
    columns: tuple[str, ...]
    own: float  # share of the format's keys that stand under their own name
    guessed: int  # columns whose name says nothing
    counts: dict[str, int]
    reason: str

    @property
    def passed(self) -> int:
        """Rows of the sample that pass the contract."""
        return self.counts.get("accepted", 0)


class Proposal(Noun):
    """Readings of a sample of `n` rows, the best first."""

    n: int
    columns: tuple[str, ...]
    readings: tuple[Reading, ...] = ()

    @property
    def ambiguity(self) -> float:
        """Second best over best, in rows that pass; 1 when nothing passes."""
        passed = [reading.passed for reading in self.readings] + [0, 0]
        return passed[1] / passed[0] if passed[0] else 1.0

    @property
    def confidence(self) -> float:
        """best/n x (1 - second/best), which is (best - second)/n."""
        passed = [reading.passed for reading in self.readings] + [0, 0]
        return (passed[0] - passed[1]) / self.n if self.n else 0.0

    @property
    def tie(self) -> bool:
        """Whether two readings pass equally many rows."""
        return self.ambiguity == 1.0

    @property
    def sure(self) -> bool:
        """Whether the best reading may be used without asking."""
        return self.n >= FEW and not self.tie and self.confidence >= ENOUGH


def apply(value: Value, mapping: Mapping[str, str]) -> Value:
    """The record with its columns under our keys. Raises Refused when a column of that name is there already."""
    taken = [key for column, key in mapping.items() if column in value and column != key and key in value and key not in mapping]
    if taken:
        raise Refused(RejectCode.WRONG_TYPE, f"has a column {taken[0]} besides the one that is mapped to it", "map that column to another name too")
    return {mapping.get(column, column): item for column, item in value.items()}


def check(mapping: Mapping[str, str], where: str) -> None:
    """Raise InputError for every key of a mapping that no format has, and for two columns with one key."""
    known = {key for form in FORMATS for key in (*form.keys, *form.reads)} | {"id"}
    problems = [Problem(where, f'"{key}" is no key of a row', did_you_mean(key, known)) for key in mapping.values() if key not in known]
    twice = [key for key, count in Counter(mapping.values()).items() if count > 1]
    problems += [Problem(where, f"two columns are mapped to {key}", "map one column to each key") for key in twice]
    if problems:
        raise InputError(*problems)


def propose(records: Iterable[Record], shape: str | None = None, labels: Sequence[str] | None = None) -> Proposal:
    """Readings of the first 200 records as rows of `shape` (None: of any), ranked. A record that is none at all passes no reading.

    A reading is no rival of another that passes at least half as many rows and for which the names speak (`_beats`). Raises InputError when `shape` is unknown.
    """
    sample = list(islice(records, SAMPLE))
    if shape is not None and shape not in {form.shape for form in FORMATS}:
        raise InputError(Problem("shape", f'unknown row shape "{shape}"', did_you_mean(shape, {form.shape for form in FORMATS})))
    values = [record.value for record in sample]
    columns = tuple(dict.fromkeys(column for value in values if not isinstance(value, Fault) for column in value))
    tried = [_tried(form, mapping, values, shape, labels) for form in _forms(shape) for mapping in _mappings(form, columns, values)]
    tried += [_tried(form, {}, values, shape, labels) for form in _as_they_are(values) if shape in (None, form.shape)]
    tried = _distinct([reading for reading in tried if reading.passed])
    kept = [one for one in tried if not any(_beats(other, one) for other in tried)] or tried
    ranked = sorted(kept, key=lambda reading: (-reading.passed, -reading.own, reading.guessed, reading.format))
    return Proposal(n=len(sample), columns=columns, readings=tuple(ranked))


def settle(proposal: Proposal, where: str, *, force: bool = False) -> dict[str, str]:
    """The mapping to use. Raises InputError where it is not sure, naming the two best readings and what to write into the recipe; `force` never breaks a tie."""
    if proposal.sure or (force and proposal.readings and not proposal.tie):
        return dict(proposal.readings[0].mapping)
    columns = ", ".join(proposal.columns[:10]) or "none"
    if not proposal.readings:
        raise InputError(Problem(where, f"no reading of its columns passes the contract: {columns}", "write data.mapping: {column: key} into the recipe"))
    told = [f"{_said(reading, proposal.n)}\n{indent(yaml(reading.mapping), '    ')}" for reading in proposal.readings[:2]]
    few = f"; {proposal.n} rows are too few to tell" if proposal.n < FEW else ""
    why = f"what its columns are is not sure: confidence {proposal.confidence:.2f}, below {ENOUGH:.2f}{few}\n" + "\n".join(told)
    fix = "put the block that is right under data: in the recipe" + ("" if proposal.tie else f", or take the first: planish map {where} --force")
    raise InputError(Problem(where, why, fix))


def yaml(mapping: Mapping[str, str]) -> str:
    """The mapping as it stands in a recipe under `data`, and in mapping.yaml."""
    return "mapping:" + "".join(f"\n  {json.dumps(column, ensure_ascii=False)}: {key}" for column, key in mapping.items()) if mapping else "mapping: {}"


def _said(reading: Reading, n: int) -> str:
    refused = ", ".join(f"{code} {count}" for code, count in reading.counts.items() if code != "accepted")
    return f"  {reading.shape} rows ({reading.format}): {reading.passed} of {n} pass" + (f", refused: {refused}" if refused else "") + f"; {reading.reason}"


def _forms(shape: str | None) -> list[Format]:
    return [form for form in FORMATS if form.name in NAMES and shape in (None, form.shape)]


def _as_they_are(values: Sequence[Value | Fault]) -> list[Format]:
    """Formats that records have without any mapping, but for those that are tried anyway."""
    found = [detect(value) for value in values if not isinstance(value, Fault)]
    return [form for form in dict.fromkeys(found) if form is not None and form.name not in NAMES]


def _mappings(form: Format, columns: Sequence[str], values: Sequence[Value | Fault]) -> Iterator[dict[str, str]]:
    """Every {column: key} that gives the format its keys: by own name, else by a known name, else by columns whose name says nothing."""
    names = NAMES[form.name]
    lower = {column: _plain(column) for column in columns}
    told = {column for column in columns if lower[column] in BESIDE or any(lower[column] == key or lower[column] in other for key, other in names.items())}
    unknown = [column for column in columns if column not in told and column not in OPTIONAL.get(form.name, {})][:MOST_UNKNOWN]
    choices = []
    for key in form.keys:
        known = [column for column in columns if lower[column] in names[key]]
        choices.append([key] if key in columns else [column for column in columns if lower[column] == key] or known or unknown)
    for chosen in product(*choices):
        if len(set(chosen)) < len(chosen) or (form.name == "label" and chosen[1] != "label" and not _repeats(chosen[1], values)):
            continue
        mapping = {column: key for column, key in zip(chosen, form.keys, strict=True) if column != key}
        for key, others in OPTIONAL.get(form.name, {}).items():
            found = [column for column in columns if column not in chosen and lower[column] in others]
            if key not in columns and len(found) == 1:
                mapping[found[0]] = key
        yield mapping


def _plain(column: str) -> str:
    return column.lower().strip().replace(" ", "_").replace("-", "_")


def _repeats(column: str, values: Sequence[Value | Fault]) -> bool:
    """Whether a column can hold labels: no more than half of its texts are new. A set of labels is small, a text is not said twice."""
    held = [value[column] for value in values if not isinstance(value, Fault) and isinstance(value.get(column), str)]
    return len(set(held)) <= max(2, len(held) / 2)


def _tried(form: Format, mapping: dict[str, str], values: Sequence[Value | Fault], shape: str | None, labels: Sequence[str] | None) -> Reading:
    counts: Counter[str] = Counter()
    origin = Origin(file="", line=0, sha256="")
    for value in values:
        if isinstance(value, Fault):
            counts[value.code.value] += 1
            continue
        try:
            row = row_from(apply(value, mapping), origin=origin, shape=shape, labels=labels)
        except Refused as refused:
            counts[refused.fault.code.value] += 1
        else:
            counts["accepted" if row.shape == form.shape else RejectCode.UNKNOWN_SHAPE.value] += 1
    of_key = {key: column for column, key in mapping.items()}
    chosen = [of_key.get(key, key) for key in form.keys]
    names = NAMES.get(form.name, {})
    normal = [_plain(column) for column in chosen]
    own = [column == key for column, key in zip(normal, form.keys, strict=True)]
    guessed = [not is_own and column not in names[key] for column, key, is_own in zip(normal, form.keys, own, strict=True)]
    return Reading(
        format=form.name,
        shape=form.shape,
        mapping=mapping,
        columns=tuple(sorted({*chosen, *mapping, *(key for key in form.reads if any(key in value for value in values if not isinstance(value, Fault)))})),
        own=sum(own) / len(own),
        guessed=sum(guessed),
        counts=dict(sorted(counts.items())),
        reason="; ".join(_why(*one) for one in zip(chosen, form.keys, own, guessed, strict=True)),
    )


def _why(column: str, key: str, own: bool, guessed: bool) -> str:
    if own:
        return f"{column} is there by name"
    return f'the name "{column}" says nothing, taken as {key}' if guessed else f'"{column}" is a name for {key}'


def _distinct(readings: list[Reading]) -> list[Reading]:
    """One reading of each mapping and shape: two formats that make the same rows are one answer."""
    return list({(reading.shape, *sorted(reading.mapping.items())): reading for reading in reversed(readings)}.values())


def _beats(a: Reading, b: Reading) -> bool:
    """Whether names alone speak for `a` and against `b`: it guesses less, knows more of the columns, or finds more keys under their own names."""
    if 2 * a.passed < b.passed:
        return False
    if a.guessed != b.guessed:
        return a.guessed < b.guessed
    if set(a.columns) > set(b.columns) or set(a.columns) < set(b.columns):
        return set(a.columns) > set(b.columns)
    return a.own > b.own
