"""Rows in another language than the one expected, or than nearly all the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from planish.data import languages
from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.data.texts import final_answer, prompt_text
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import LabelRow, NoteCode, Row

MAIN = 0.8
"""With no language expected: one that this share of the texts has is taken for it; without such a one the data is of several languages, and none is wrong."""

SURE = 0.95
"""Probability of none of the expected languages from which a text counts as in another; the likeliest must have 0.8, as close relatives share the rest."""

_UNSURE = "unsure"


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, expected: list[str] | None = None) -> CheckResult:
    """A warning per row whose prompt or answer is in another language (MISSION D4); the row stays. Figures: texts by language.

    `expected` are two-letter codes (ISO 639-1). py3langid tells the language, from the bytes, with a model that ships with it. Texts of fewer than 30 letters
    and code are not judged. Raises InputError on a code it does not know, MissingExtra without the package.
    """
    known = languages.identifier().labels
    unknown = [code for code in expected or () if code not in known]
    if unknown:
        raise InputError(*(Problem("checks.language.expected", f'"{code}" is no language code it knows', did_you_mean(code, known)) for code in unknown))
    told = list(rows.map(_languages))
    counts = Counter(ranked[0][0] if ranked[0][1] >= 0.5 else _UNSURE for each in told for ranked in each)
    total = counts.total() - counts[_UNSURE]
    wanted = tuple(expected or (code for code, count in counts.items() if code != _UNSURE and count >= MAIN * total))
    findings = []
    for key, texts in zip(rows.keys, told, strict=True):
        others = [ranked[0] for ranked in texts if ranked[0][1] >= 0.8 and sum(share for code, share in ranked if code in wanted) <= 1 - SURE]
        if wanted and others:
            best, sure = others[0]
            why = f'is in "{best}" (probability {sure:.2f}), not in {" or ".join(wanted)}'
            fix = "leave it out, or say which languages you want: checks: [{language: {expected: [..]}}]"
            findings.append(Finding(row_id=key.id, code=NoteCode.LANGUAGE_OTHER, severity="warn", why=why, fix=fix))
    figures = {
        "texts": dict(sorted(counts.items(), key=lambda each: (-each[1], each[0]))),
        "judged": counts.total(),
        "rows_not_judged": sum(not each for each in told),
        "expected": list(wanted),
    }
    return CheckResult(findings=tuple(findings), figures=figures)


def _languages(row: Row) -> list[list[tuple[str, float]]]:
    """For prompt and answer, where they can be judged: the languages each may be in with their probabilities, the likeliest first."""
    texts = (prompt_text(row), "" if isinstance(row, LabelRow) else final_answer(row))
    return [told for text in texts if (told := languages.ranked(text))]
