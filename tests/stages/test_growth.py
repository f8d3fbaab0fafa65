"""Rows added to a file: every row stays on the side where it lay, and gold becomes a new version (MISSION D8, D10)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.conftest import make_tiny

from planish import pipeline
from planish.data import dataset, gold
from planish.errors import InputError
from planish.progress import Silent
from planish.recipe import Recipe
from planish.rows import LabelRow
from planish.stages.feedback import _next_recipe


class _Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def _rows(first: int, count: int) -> str:
    lines = []
    for index in range(first, first + count):
        words = hashlib.sha256(str(index).encode()).hexdigest()
        row = {"text": f"{words[:9]} {words[9:18]} {words[18:27]}", "label": ("good", "bad")[index % 2], "shop": f"s{index % 50}"}
        lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"


def _prepared(home: Path, split: str) -> tuple[dataset.Dataset, list[str]]:
    text = f"recipe: 1\nmodel: model\ndata: {{path: rows.jsonl, checks: [duplicates], split: {{group_by: shop, gold: 0.3{split}}}}}\n"
    (home / "recipe.yaml").write_text(text, encoding="utf-8")
    heard = _Heard()
    outcome = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "space", until="prepare", progress=heard)
    assert outcome.stages["prepare"].folder is not None
    return dataset.read(outcome.stages["prepare"].folder), heard.lines


def test_d8_rows_that_are_added_move_no_other(tmp_path: Path) -> None:
    """200 rows of 50 shops, then 60 more of the same shops and 40 of new ones before them. Divided anew, old rows move, and that is said; with `keep` none does,
    every new row of an old shop joins it, and gold is version 2."""
    make_tiny(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(_rows(0, 200), encoding="utf-8")
    first, said = _prepared(tmp_path, "")
    assert not any("another side" in line for line in said)
    old = dataset.assignment(first)
    new_shops = _rows(1000, 40).replace('"shop": "s', '"shop": "new')
    (tmp_path / "rows.jsonl").write_text(new_shops + _rows(0, 260), encoding="utf-8")
    moved, said = _prepared(tmp_path, "")
    anew = dataset.assignment(moved)
    away = sum(anew[row_id] != side for row_id, side in old.items())
    assert away > 0
    assert any(f"{away} rows lie on another side" in line and f"data.split.keep: {first.folder}" in line for line in said)
    kept, said = _prepared(tmp_path, f", keep: '{first.folder}'")
    placed = dataset.assignment(kept)
    assert {row_id: placed[row_id] for row_id in old} == old
    assert len(placed) == 300
    sides: dict[str | None, set[str]] = {}
    for row in dataset.every_row(kept):
        sides.setdefault(row.group, set()).add(placed[row.id])
    assert all(len(one) == 1 for one in sides.values())
    assert gold.read(kept.gold_path).version == 2
    assert kept.manifest.parents == (first.sha256,)
    assert not any("another side" in line for line in said)


def test_d8_what_is_kept_must_be_a_data_set_and_no_other_than_the_rows(tmp_path: Path) -> None:
    make_tiny(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(_rows(0, 200), encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.split\.keep: nothing: there is no such file or data set"):
        _prepared(tmp_path, ", keep: nothing")
    first, _ = _prepared(tmp_path, "")
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "rows.jsonl").symlink_to(first.folder)
    with pytest.raises(InputError, match=r"data\.split\.keep.*is a data set, which has gold rows and a split of its own"):
        _prepared(tmp_path, f", keep: '{first.folder}'")


def test_d8_the_next_recipe_takes_gold_and_split_from_its_data_set(tmp_path: Path) -> None:
    """The data set that corrections grow holds the gold rows of a file of one's own, and what `keep` kept: neither is named a second time."""
    text = "recipe: 1\nmodel: some/model\ndata: {path: rows.jsonl, gold: own.jsonl, split: {group_by: shop, keep: earlier}}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    _next_recipe(Recipe.load(tmp_path / "recipe.yaml"), "run-1", tmp_path)
    again = Recipe.load(tmp_path / "next_recipe.yaml")
    assert (str(again.data.path), again.data.gold, again.data.split.keep, again.data.split.group_by) == ("dataset", None, None, "shop")


def test_d8_a_column_of_times_that_no_row_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    make_tiny(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(_rows(0, 200), encoding="utf-8")
    with pytest.raises(InputError, match=r'time_by: no row has a column "shopp"\n  fix: did you mean "shop"'):
        _prepared(tmp_path, ", time_by: shopp")


def _side_by_text(data: dataset.Dataset) -> dict[str, str]:
    placed = dataset.assignment(data)
    return {row.text: placed[row.id] for row in dataset.every_row(data) if isinstance(row, LabelRow)}


def test_d8_ids_that_count_lines_or_stand_twice_move_no_row(tmp_path: Path) -> None:
    """200 rows whose ids are 0 to 49 four times over, then the same rows the other way round without the last three: by their ids 3 of 4 would mean another row."""
    make_tiny(tmp_path / "model")
    rows = [{"id": index % 50, **json.loads(line)} for index, line in enumerate(_rows(0, 200).splitlines())]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, _ = _prepared(tmp_path, "")
    old = _side_by_text(first)
    gone = [old[str(row["text"])] for row in rows[197:]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows[:197])), encoding="utf-8")
    kept, said = _prepared(tmp_path, f", keep: '{first.folder}'")
    assert _side_by_text(kept) == {text: side for text, side in old.items() if text not in {row["text"] for row in rows[197:]}}
    counts = ", ".join(f"{gone.count(side)} of {side}" for side in ("train", "validation", "gold") if side in gone)
    assert f"  3 of 200 rows of the data set that is kept are not in rows.jsonl any more: {counts}" in said


def test_d8_rows_that_only_changed_places_are_not_said_to_have_moved(tmp_path: Path) -> None:
    """The same 200 rows the other way round under line numbers: the split is by what they ask, so that none lies on another side."""
    make_tiny(tmp_path / "model")
    rows = [json.loads(line) for line in _rows(0, 200).splitlines()]
    for order in (rows, rows[::-1]):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": place, **row}) + "\n" for place, row in enumerate(order)), encoding="utf-8")
        data, said = _prepared(tmp_path, "")
        assert not any("another side" in line for line in said)
    assert len(_side_by_text(data)) == 200
