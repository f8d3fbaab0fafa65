"""All cases of the suite, by part."""

from __future__ import annotations

from benchmarks.planted import answers, clean, content, contract, copies, formats, gold, private, tokens
from benchmarks.planted.case import Case

CASES: tuple[Case, ...] = (
    *formats.CASES,
    *contract.CASES,
    *copies.CASES,
    *content.CASES,
    *private.CASES,
    *answers.CASES,
    *gold.CASES,
    *tokens.CASES,
    *clean.CASES,
)

DEFECTS: tuple[Case, ...] = tuple(case for case in CASES if not case.clean)
CLEAN: tuple[Case, ...] = tuple(case for case in CASES if case.clean)
