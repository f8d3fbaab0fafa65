"""Likely wrong labels (MISSION D4; confident learning)."""

from __future__ import annotations

import random

import pytest

from planish.checks import mislabels
from planish.data.table import Table
from planish.errors import InputError
from planish.rows import LabelRow, NoteCode, Origin, TextRow

WORDS = {
    "refund": ["refund", "money", "back", "paid", "charge", "price", "invoice", "bank", "card", "return"],
    "delivery": ["parcel", "courier", "late", "door", "package", "truck", "street", "arrive", "ship", "tracking"],
    "password": ["login", "account", "reset", "email", "locked", "access", "code", "sign", "screen", "user"],
}
COMMON = ["please", "my", "the", "order", "again", "today", "when", "how", "why", "shop"]


def _rows(seed: int, n: int, wrong: int) -> tuple[Table, set[str]]:
    """`n` rows of three labels, eight words each, of which four are the label's; `wrong` of them have another label."""
    rng = random.Random(seed)
    rows, planted = [], set[str]()
    for number in range(n):
        label = sorted(WORDS)[number % 3]
        text = " ".join(rng.sample(rng.sample(WORDS[label], 4) + rng.sample(COMMON, 4), 8)) + f" {number}"
        if number < wrong:
            label = rng.choice([other for other in sorted(WORDS) if other != label])
            planted.add(str(number))
        rows.append(LabelRow(id=str(number), origin=Origin(file="f", line=1, sha256=""), text=text, label=label))
    return Table.of(rows), planted


@pytest.mark.slow
def test_planted_wrong_labels_are_named_with_few_false_alarms() -> None:
    """30 of 450 labels are wrong: precision at least 0.95, recall at least 0.8, from the characters alone."""
    rows, planted = _rows(7, 450, 30)
    result = mislabels.check(rows, encoder=None)
    named = {str(finding.row_id) for finding in result.findings}
    assert {finding.code for finding in result.findings} == {NoteCode.MISLABEL_SUSPECTED}
    assert len(named & planted) >= 0.8 * len(planted)
    assert len(named & planted) >= 0.95 * len(named)
    assert result.figures["named"] == len(named)
    assert result.figures["out_of_fold_accuracy"] == pytest.approx(1 - 30 / 450, abs=0.02)


def test_many_labels_are_judged_by_the_main_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mislabels, "_SPARSE", 100)
    rows, planted = _rows(7, 450, 30)
    named = {str(finding.row_id) for finding in mislabels.check(rows, encoder=None).findings}
    assert len(named & planted) >= 0.75 * max(len(planted), len(named))


def test_right_labels_are_left_in_peace() -> None:
    rows, _ = _rows(8, 210, 0)
    result = mislabels.check(rows, encoder=None)
    assert not result.findings
    assert result.figures["out_of_fold_accuracy"] > 0.98


@pytest.mark.slow
def test_a_classifier_that_knows_nothing_names_nothing() -> None:
    rng = random.Random(3)
    rows = [
        LabelRow(id=str(n), origin=Origin(file="f", line=1, sha256=""), text=" ".join(rng.choices(COMMON, k=6)), label=rng.choice("abcd")) for n in range(120)
    ]
    result = mislabels.check(Table.of(rows), encoder=None)
    assert result.figures["out_of_fold_accuracy"] < 0.5
    assert not result.findings


def test_what_cannot_be_judged_is_not() -> None:
    rows, _ = _rows(9, 9, 0)
    assert mislabels.check(rows, encoder=None).figures["named"] == 0  # three rows of each label, five folds
    assert mislabels.check(Table.of([TextRow(id="1", origin=Origin(file="f", line=1, sha256=""), text="t")]), encoder=None).figures["rows"] == 0
    assert not mislabels.check(Table.of([]), encoder=None).findings


@pytest.mark.parametrize(("keys", "why"), [({"folds": 1}, "leave nothing"), ({"odds": 0.5}, "likelier")])
def test_keys_without_meaning_are_refused(keys: dict[str, float], why: str) -> None:
    with pytest.raises(InputError, match=why):
        mislabels.check(Table.of([]), **keys)  # type: ignore[arg-type]


@pytest.mark.slow
def test_planted_wrong_labels_by_the_bundled_encoder() -> None:
    rows, planted = _rows(11, 240, 12)
    named = {str(finding.row_id) for finding in mislabels.check(rows).findings}
    assert len(named & planted) >= 0.9 * len(planted)
    assert len(named & planted) >= 0.9 * len(named)
