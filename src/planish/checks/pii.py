"""Rows with somebody's personal data: e-mail addresses, telephone, card and account numbers, addresses of machines, national identity numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Literal

from planish.data.finding import CheckResult, Finding
from planish.data.redact import Finding as Place
from planish.data.redact import Redactor
from planish.data.table import Table
from planish.data.texts import every_text
from planish.errors import MissingExtra, Problem
from planish.lazy import require
from planish.rows import RejectCode, Row

_CALLED = re.compile(r"\b(?:phone|tele?|call|mobile|cell|fax|whatsapp|dial|ring|sms|reach)", re.I)
_AROUND = 60  # characters before and behind a bare run of digits in which such a word makes it a telephone number
_SECRETS = frozenset({"SECRET", "URL_CREDENTIALS"})  # the secrets check has more of them


def check(
    rows: Table,
    split: Mapping[str, str] | None = None,
    chat: Any = None,
    *,
    locales: list[str] | None = None,
    action: Literal["reject", "warn"] = "reject",
    names_by: str | None = None,
) -> CheckResult:
    """A finding per row that holds personal data, with the kinds in `why`, never the data (MISSION D4, L3).

    Detection is that of redaction: presidio's pattern and checksum recognisers on a blank pipeline, chosen per locale of `locales` (en-US when left out).
    Names of people need a model: `names_by` is an installed spaCy model, and then they count too. Figures: rows and places by kind, and the kinds looked for.
    Raises InputError on an unknown locale, MissingExtra without presidio or the spaCy model.
    """
    chosen = tuple(locales or ("en-US",))
    kinds = sorted({kind for locale in chosen for kind in _redactor(locale).kinds} - _SECRETS)
    if names_by is not None:
        _names(names_by)
        kinds.append("PERSON")
    findings: list[Finding] = []
    by_row: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for key, found in zip(rows.keys, rows.map(partial(_found, chosen, names_by)), strict=True):
        by_row.update(found.keys())
        places.update(found)
        if found:
            why = "holds personal data: " + ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
            fix = "replace it by a placeholder or an invented value, or leave the row out; feedback: {redact: true} does so for logged requests"
            findings.append(Finding(row_id=key.id, code=RejectCode.PII, severity=action, why=why, fix=fix))
    figures = {"rows": len(rows), "rows_by_kind": dict(sorted(by_row.items())), "places_by_kind": dict(sorted(places.items()))}
    figures |= {"locales": list(chosen), "looked_for": kinds, "names_by": names_by}
    return CheckResult(findings=tuple(findings), figures=figures)


@cache
def _redactor(locale: str) -> Redactor:
    return Redactor(locale)


@cache
def _names(model: str) -> Any:
    spacy = require("spacy", extra="redact")
    try:
        return spacy.load(model)
    except OSError as absent:
        raise MissingExtra(Problem(f"checks.pii.names_by: {model}", "is no installed spaCy model", f"python -m spacy download {model}")) from absent


def _found(locales: tuple[str, ...], names_by: str | None, row: Row) -> Counter[str]:
    """How many places of each kind the texts of a row hold. A place that several locales know counts once, under the first's kind."""
    counts: Counter[str] = Counter()
    for text in every_text(row):
        seen: dict[tuple[int, int], str] = {}
        for locale in locales:
            for found in _redactor(locale).find(text):
                if found.kind not in _SECRETS and not _mere_number(found, text) and not any(found.start < end and start < found.end for start, end in seen):
                    seen[found.start, found.end] = found.kind
        counts.update(seen.values())
        if names_by is not None:
            counts["PERSON"] += sum(entity.label_ in ("PERSON", "PER") for entity in _names(names_by)(text).ents)
    return +counts


def _mere_number(found: Place, text: str) -> bool:
    """Whether a telephone number is a bare run of digits with nothing about telephones around it: any large number may look like one. Redaction takes it out
    all the same, but a row is not set aside for it."""
    around = text[max(0, found.start - _AROUND) : found.end + _AROUND]
    return found.kind == "PHONE" and text[found.start : found.end].isdigit() and not _CALLED.search(around)
