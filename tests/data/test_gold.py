"""The sealed gold set (MISSION D10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planish.data import gold, task
from planish.errors import InputError
from planish.rows import LabelRow, Origin

TRIAGE = task.classification(["bad", "good"])


def _rows(n: int = 30) -> list[LabelRow]:
    where = Origin(file="f", line=1, sha256="")
    return [LabelRow(id=f"{i:03}", origin=where, text=f"Text {i}", label=("bad", "good")[i % 2], group=str(i // 3), extra={"lang": "en"}) for i in range(n)]


def test_d10_a_gold_set_is_the_same_whatever_the_order_and_survives_its_file(tmp_path: Path) -> None:
    made = gold.build(_rows(), TRIAGE)
    assert gold.build(_rows()[::-1], TRIAGE) == made
    assert (made.labels, made.version, len(made.samples)) == (("bad", "good"), 1, 30)
    assert (made.samples[4].target, made.samples[4].group, made.samples[4].slices) == ("bad", "1", {})
    assert made.samples[4].messages == TRIAGE.prompt("Text 4")
    gold.write(made, tmp_path / "gold.json")
    assert gold.read(tmp_path / "gold.json") == made


def test_d10_a_gold_row_names_its_slices_by_key_or_in_a_list(tmp_path: Path) -> None:
    """MISSION D10: rows have `slices`. A name that one row lists is in or out for every row, so that the others are counted too."""
    rows = [row.model_copy(update={"extra": {"slices": {"region": "north"}} if place else {"slices": ["urgent", "long"]}}) for place, row in enumerate(_rows())]
    made = gold.build(rows, TRIAGE)
    assert made.samples[0].slices == {"long": "in", "urgent": "in"}
    assert made.samples[1].slices == {"long": "out", "urgent": "out", "region": "north"}
    gold.write(made, tmp_path / "gold.json")
    assert gold.read(tmp_path / "gold.json") == made


def _edit_target(body: dict[str, Any]) -> None:
    body["samples"][0]["target"] = "good"


def _edit_and_reseal_samples_only(body: dict[str, Any]) -> None:
    from planish.rows import content_hash

    _edit_target(body)
    body["sha256"] = content_hash(body["samples"])


@pytest.mark.parametrize(
    "edit",
    [
        _edit_target,
        _edit_and_reseal_samples_only,
        lambda body: body["labels"].append("new"),
        lambda body: body.update(version=2),
        lambda body: body["samples"].pop(),
        lambda body: body.pop("seal"),
        lambda body: body.update(seal="0"),
        lambda body: body.update(note="x"),
    ],
)
def test_d10_an_edited_file_is_refused(tmp_path: Path, edit: Any) -> None:
    path = tmp_path / "gold.json"
    gold.write(gold.build(_rows(40), TRIAGE), path)
    body = json.loads(path.read_text())
    edit(body)
    path.write_text(json.dumps(body))
    with pytest.raises(InputError, match="was edited") as refused:
        gold.read(path)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "{}"])
def test_a_file_that_is_no_gold_set_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "gold.json").write_text(text)
    with pytest.raises(InputError, match="is no gold set"):
        gold.read(tmp_path / "gold.json")
    with pytest.raises(InputError, match="no such gold set"):
        gold.read(tmp_path / "none.json")


def test_d10_fewer_than_30_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="29 gold rows; at least 30"):
        gold.build(_rows(29), TRIAGE)
