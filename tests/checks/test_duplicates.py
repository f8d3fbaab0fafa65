"""Exact duplicates (MISSION D5)."""

from __future__ import annotations

import random

import pandas as pd

from planish.checks import duplicates
from planish.data.table import Table
from planish.rows import LabelRow, Origin, RejectCode


def _row(n: int, text: str, label: str = "a") -> LabelRow:
    return LabelRow(id=str(n), origin=Origin(file="rows.jsonl", line=n + 1, sha256=""), text=text, label=label)


def test_d5_20_distinct_rows_and_10_copies() -> None:
    """MISSION D5, Ex: 20 distinct + 10 copies -> 20 kept, 10 `duplicate` pointing to the kept line. Copy 20 + n repeats row n of line n + 1."""
    rows = [_row(n, f"Text {n}") for n in range(20)] + [_row(20 + n, f" text  {n} ".upper()) for n in range(10)]
    result = duplicates.check(Table.of(rows))
    assert [(finding.row_id, finding.see) for finding in result.findings] == [(str(20 + n), str(n)) for n in range(10)]
    assert all(finding.code == RejectCode.DUPLICATE and finding.severity == "reject" for finding in result.findings)
    assert "line 4" in result.findings[3].why
    assert result.figures == {"rows": 30, "distinct": 20, "copies": 10, "rows_with_copies": 10}


def test_d5_weight_count_says_how_often_each_kept_row_stood_there() -> None:
    """MISSION D5: repeats may be the true frequency; `weight: count` keeps it. a, b, a, a: a stood there 3 times."""
    result = duplicates.check(Table.of(_row(n, text) for n, text in enumerate("abaa")), weight="count")
    assert result.figures["weights"] == {"0": 3}
    assert [finding.row_id for finding in result.findings] == ["2", "3"]


def test_d5_the_same_question_with_another_answer_is_no_duplicate() -> None:
    assert not duplicates.check(Table.of([_row(0, "x", "a"), _row(1, "x", "b")])).findings


def test_a_gold_row_is_no_copy_of_a_training_row() -> None:
    """What stands on both sides is for the leakage check, which drops the training row, never the gold one (MISSION D9)."""
    rows = [_row(n, text) for n, text in enumerate("aab")]
    assert not duplicates.check(Table.of(rows), {"1": "gold"}).findings
    assert [finding.row_id for finding in duplicates.check(Table.of(rows), {"0": "gold", "1": "gold"}).findings] == ["1"]


def test_d5_agrees_with_pandas() -> None:
    """MISSION D5, Proof: pandas drop_duplicates (on ASCII text without case or spacing, where normalisation changes nothing)."""
    rng = random.Random(5)
    rows = [_row(n, f"t{rng.randrange(300)}", rng.choice("ab")) for n in range(1000)]
    frame = pd.DataFrame([{"id": row.id, "text": row.text, "label": row.label} for row in rows])
    dropped = {finding.row_id for finding in duplicates.check(Table.of(rows)).findings}
    assert [row.id for row in rows if row.id not in dropped] == list(frame.drop_duplicates(["text", "label"])["id"])
