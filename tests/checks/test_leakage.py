"""Rows that ask what gold asks (MISSION D9, exact)."""

from __future__ import annotations

import pytest

from planish.checks import leakage
from planish.errors import InputError
from planish.rows import LabelRow, Origin, RejectCode


def _row(id: str, text: str, label: str = "a") -> LabelRow:
    return LabelRow(id=id, origin=Origin(file="f", line=1, sha256=""), text=text, label=label)


def test_d9_50_planted_exact_leaks_are_all_found_and_gold_is_never_touched() -> None:
    """MISSION D9, Proof (its exact part): 50 train rows repeat gold texts in capitals with another label; 50 do not."""
    gold = [_row(f"g{n}", f"Text {n}") for n in range(50)]
    leaks = [_row(f"t{n}", f"TEXT  {n}", "b") for n in range(50)]
    clean = [_row(f"c{n}", f"other {n}") for n in range(50)]
    split = {row.id: name for name, rows in (("gold", gold), ("train", leaks), ("validation", clean)) for row in rows}
    findings = leakage.check([*clean, *leaks, *gold], split)
    assert [(finding.row_id, finding.see) for finding in findings] == [(f"t{n}", f"g{n}") for n in range(50)]
    assert {finding.code for finding in findings} == {RejectCode.GOLD_OVERLAP}


def test_validation_leaks_too_and_unused_rows_do_not_matter() -> None:
    rows = [_row("g", "x"), _row("v", "x"), _row("u", "x")]
    assert [finding.row_id for finding in leakage.check(rows, {"g": "gold", "v": "validation", "u": "unused"})] == ["v"]


def test_without_a_split_it_says_so() -> None:
    with pytest.raises(InputError, match="given no split"):
        leakage.check([_row("1", "x")])
