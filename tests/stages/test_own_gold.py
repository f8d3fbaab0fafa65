"""A gold set of one's own, and its blind half that is opened once (MISSION D10)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.conftest import make_tiny

from planish import blind, pipeline
from planish.check import check_rows
from planish.data import dataset, gold
from planish.data.gold_lock import lock
from planish.errors import InputError
from planish.events import EventType
from planish.progress import Silent
from planish.recipe import Recipe
from planish.recipe_keys import Use
from planish.store import Store

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [good, bad], DATA}
baseline: [majority]
train:
  - {objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-2, max_steps: 3, batch_size: 8, validations: 0, checkpoints: 0, precision: fp32}
evaluate: {scorers: [label], general: []}
gate: ["label.accuracy >= 0.99"]
"""


def _rows(path: Path, name: str, count: int) -> None:
    lines = []
    for index in range(count):
        words = hashlib.sha256(f"{name} {index}".encode()).hexdigest()
        lines.append(json.dumps({"text": f"{words[:9]} {words[9:18]} {words[18:27]}", "label": ("good", "bad")[index % 2]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _prepared(home: Path, data: str) -> tuple[Recipe, dataset.Dataset]:
    (home / "recipe.yaml").write_text(RECIPE.replace("DATA", data), encoding="utf-8")
    recipe = Recipe.load(home / "recipe.yaml")
    outcome = pipeline.run(recipe, workspace=home / "space", until="prepare", progress=Silent())
    assert outcome.stages["prepare"].folder is not None
    return recipe, dataset.read(outcome.stages["prepare"].folder)


def test_d10_rows_that_come_as_gold_are_gold_and_nothing_else_is(tmp_path: Path) -> None:
    """150 gold rows of their own; a training row that asks what one of them asks is set aside, never the gold row; a later edit is refused until it is a version."""
    make_tiny(tmp_path / "model")
    _rows(tmp_path / "rows.jsonl", "train", 100)
    _rows(tmp_path / "own.jsonl", "own", 150)
    first = (tmp_path / "own.jsonl").read_text(encoding="utf-8").splitlines()[0]
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as out:
        out.write(first + "\n")
    lock(tmp_path / "own.jsonl", "first")
    _, made = _prepared(tmp_path, "gold: own.jsonl, checks: [duplicates, near_duplicates, label_conflicts, leakage]")
    placed = dataset.assignment(made)
    rows = {row.id: row for row in dataset.every_row(made)}
    assert {row.origin.file for row_id, row in rows.items() if placed[row_id] == "gold"} == {"own.jsonl"}
    assert len(gold.read(made.gold_path).samples) == 150
    assert [(row.file, row.code.value) for row in dataset.rejected_rows(made)] == [("rows.jsonl", "gold_overlap")]
    with (tmp_path / "own.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps({"text": "one more", "label": "good"}) + "\n")
    with pytest.raises(InputError, match="was edited after it was locked as version 1"):
        _prepared(tmp_path, "gold: own.jsonl")
    lock(tmp_path / "own.jsonl", "one more row")
    assert gold.read(_prepared(tmp_path, "gold: own.jsonl")[1].gold_path).version == 2


def test_d10_gold_rows_that_another_data_set_held_are_gold_all_the_same(tmp_path: Path) -> None:
    """40 stored rows of an earlier data set as the gold file: each keeps the origin it had, so no file name tells that it is gold."""
    make_tiny(tmp_path / "model")
    _rows(tmp_path / "rows.jsonl", "all", 400)
    _, made = _prepared(tmp_path, "checks: [duplicates]")
    stored = (made.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "mine.jsonl").write_text("\n".join(stored[:40]) + "\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("\n".join(stored[40:]) + "\n", encoding="utf-8")
    _, again = _prepared(tmp_path, "gold: mine.jsonl, checks: [duplicates, leakage]")
    gold_ids = {row_id for row_id, name in dataset.assignment(again).items() if name == "gold"}
    assert gold_ids == {json.loads(line)["id"] for line in stored[:40]}
    checked = check_rows(tmp_path / "rows.jsonl", gold=tmp_path / "mine.jsonl", checks=[Use(name="leakage")])
    assert checked.found["leakage"].figures["evaluation_rows"] == {"gold": 40}


def test_d8_d10_rows_of_a_gold_row_s_group_are_set_aside(tmp_path: Path) -> None:
    """100 rows of shops s0 to s19, 40 gold rows of shops s0 and s1: the 12 rows of these shops go, by name, and gold stays whole."""
    make_tiny(tmp_path / "model")
    for name, count, shops in (("rows", 100, 20), ("own", 40, 2)):
        _rows(tmp_path / f"{name}.jsonl", name, count)
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        grouped = (json.dumps(line | {"shop": f"s{index // 2 % shops}"}) for index, line in enumerate(lines))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(grouped) + "\n", encoding="utf-8")
    _, made = _prepared(tmp_path, "gold: own.jsonl, split: {group_by: shop}, checks: [duplicates, leakage]")
    gone = list(dataset.rejected_rows(made))
    assert {(row.file, row.code.value) for row in gone} == {("rows.jsonl", "group_leak")}
    assert len(gone) == 12
    assert {json.loads(row.raw)["shop"] for row in gone} == {"s0", "s1"}
    assert made.manifest.counts["n_in"] == 140 == made.manifest.counts["n_accepted"] + len(gone)
    assert made.manifest.counts["gold"] == 40
    checked = check_rows(tmp_path / "rows.jsonl", gold=tmp_path / "own.jsonl", group_by="shop", checks=[Use(name="leakage")])
    assert {row.line for row in checked.rejected} == {row.line for row in gone}


def test_d10_the_blind_half_is_opened_once(tmp_path: Path) -> None:
    """Half of the gold rows by their hash are in no file that a stage reads; they are scored once, and the second time is refused."""
    make_tiny(tmp_path / "model")
    _rows(tmp_path / "rows.jsonl", "train", 600)
    recipe, made = _prepared(tmp_path, "split: {gold: 0.3, blind: 0.5}")
    seen, hidden = ({sample.id for sample in gold.read(path).samples} for path in (made.gold_path, made.blind_path))
    assert seen.isdisjoint(hidden)
    assert len(seen) + len(hidden) == 180
    assert 60 <= len(hidden) <= 120
    with pytest.raises(InputError, match="no run of this recipe has reached its gate"):
        blind.spend(recipe, tmp_path / "space", Silent())
    pipeline.run(recipe, workspace=tmp_path / "space", until="gate", progress=Silent())
    spent = blind.spend(recipe, tmp_path / "space", Silent())
    assert {score.id for score in spent.candidate.scores} == hidden == {score.id for score in spent.baseline.scores}
    assert spent.comparison.n == len(hidden)
    with pytest.raises(InputError, match="a second look would choose by it"):
        blind.spend(recipe, tmp_path / "space", Silent())
    reads = [event.body["blind"] for event in Store(tmp_path / "space").events() if event.type == EventType.GOLD_READ]
    assert reads.count(True) == 1
    assert reads.count(False) >= 3
