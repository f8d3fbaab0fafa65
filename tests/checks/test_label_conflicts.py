"""The same input with different answers (MISSION D2, D4)."""

from __future__ import annotations

from typing import Literal

import pytest

from planish.checks import label_conflicts
from planish.data.table import Table
from planish.rows import ExtractionRow, LabelRow, Origin, PromptCompletionRow, RejectCode, Row, TextRow

WHERE = Origin(file="f", line=1, sha256="")


def _row(id: str, label: str, text: str = "x") -> LabelRow:
    return LabelRow(id=id, origin=WHERE, text=text, label=label)


GROUP: list[Row] = [_row("1", "A"), _row("2", "A", " X "), _row("3", "B"), _row("4", "A", "y"), _row("5", "A", "y")]


@pytest.mark.parametrize(("keep", "rejected"), [("none", ["1", "2", "3"]), ("majority", ["3"]), ("first", ["3"])])
def test_d4_labels_a_a_b_are_a_conflict_group_of_3(keep: Literal["none", "majority", "first"], rejected: list[str]) -> None:
    """MISSION D4, Ex: same normalised prompt with labels A,A,B -> label_conflict group of 3."""
    result = label_conflicts.check(Table.of(GROUP), keep=keep)
    findings = result.findings
    assert result.figures["groups"] == 1
    assert [finding.row_id for finding in findings] == rejected
    assert all(finding.code == RejectCode.LABEL_CONFLICT and finding.severity == "reject" for finding in findings)
    assert findings[-1].see == "1"
    assert "A 2, B 1" in findings[0].why


def test_a_tie_has_no_majority_and_the_first_label_may_be_the_rare_one() -> None:
    rows = [_row("1", "B"), _row("2", "A")]
    assert len(label_conflicts.check(Table.of(rows), keep="majority").findings) == 2
    assert [finding.row_id for finding in label_conflicts.check(Table.of([*rows, _row("3", "A")]), keep="first").findings] == ["2", "3"]


def test_free_answers_that_differ_are_only_warned_of() -> None:
    rows: list[Row] = [PromptCompletionRow(id=str(n), origin=WHERE, prompt="p", completion=answer) for n, answer in enumerate(["a", "b", " A"])]
    found = label_conflicts.check(Table.of(rows)).findings
    assert [(finding.row_id, finding.severity) for finding in found] == [("0", "warn"), ("1", "warn"), ("2", "warn")]
    assert not label_conflicts.check(Table.of([rows[0], rows[2]])).findings
    assert not label_conflicts.check(Table.of([TextRow(id="1", origin=WHERE, text="t"), TextRow(id="2", origin=WHERE, text="t")])).findings


def test_two_extractions_of_one_text_contradict_each_other() -> None:
    rows = [ExtractionRow(id=str(n), origin=WHERE, text="Alma left", fields={"person": name}) for n, name in enumerate(["Alma", "nobody"])]
    assert [(finding.row_id, finding.severity, finding.see) for finding in label_conflicts.check(Table.of(rows)).findings] == [
        ("0", "reject", "1"),
        ("1", "reject", "0"),
    ]
