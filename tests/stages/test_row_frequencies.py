"""What the prepare stage does with repeats that are the true frequency, and with preference pairs that nobody asked to be looked at (MISSION D5, P1)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from planish import pipeline
from planish.data import dataset
from planish.recipe import Recipe
from planish.recipe_train import TrainSection
from planish.stages import feedback
from planish.stages._context import read_json
from planish.stages._ready import Job, read_rows


def prepared(tiny: Path, home: Path, rows: list[dict[str, Any]], data: str) -> Path:
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (home / "recipe.yaml").write_text(f"recipe: 1\nmodel: {tiny}\ndata: {{path: rows.jsonl, {data}split: {{gold: 0.4}}}}\n", encoding="utf-8")
    folder = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "space", until="prepare").stages["prepare"].folder
    assert folder is not None
    return folder


@pytest.mark.parametrize(("weight", "often"), [("count", 3), ("none", 1)])
def test_d5_a_row_is_trained_on_as_often_as_it_stood_there(tiny: Path, tmp_path: Path, weight: str, often: int) -> None:
    """MISSION D5, `weight: count`: of 90 rows every third stood there 3 times: an epoch has it 3 times, all others once; the gold set has each once."""
    one = [{"prompt": f"how is phone {n}?", "completion": f"it is {n * 7919 % 1000} good"} for n in range(90)]
    folder = prepared(
        tiny, tmp_path, [row for n, row in enumerate(one) for _ in range(3 if n % 3 == 0 else 1)], f"checks: [{{duplicates: {{weight: {weight}}}}}], "
    )
    section = TrainSection.model_validate({"objective": "sft", "adapter": "lora", "batch_size": 4})
    job = Job(section.model_dump(mode="json"), str(tiny), None, str(folder), str(tmp_path / "work"), str(tmp_path / "out"), str(tmp_path / "tokens"))
    trained = Counter(row_id for row_id, _ in read_rows(job).train)
    data = dataset.read(folder)
    assert len(trained) == data.manifest.counts["train"]
    for row in data.rows("train"):
        number = int(row.prompt.split()[3].removesuffix("?"))  # type: ignore[union-attr]
        assert trained[row.id] == (often if number % 3 == 0 else 1)
    assert data.manifest.counts["gold"] == len(read_json(folder / "gold.json")["samples"]) == 36


def test_d5_how_often_a_row_stood_there_is_kept_when_the_data_grow(tiny: Path, tmp_path: Path) -> None:
    """Row 0 stood there 3 times and was kept once; the next version brings it once more: 3 + 1 = 4. A recipe that does not count any more has every row once."""
    one = [{"prompt": f"how is phone {n}?", "completion": f"it is {n * 7919 % 1000} good"} for n in range(90)]
    first = dataset.read(prepared(tiny, tmp_path, [one[0], one[0], *one], "checks: [{duplicates: {weight: count}}], "))
    kept = next(row for split in ("train", "validation", "gold") for row in dataset.every_row(first, split) if "phone 0?" in row.prompt)  # type: ignore[union-attr]
    assert dataset.frequencies(first) == {kept.id: 3}
    more = kept.model_copy(update={"id": "again", "origin": kept.origin.model_copy(update={"file": "corrections", "line": 1})})
    side = dataset.assignment(first)[kept.id]
    feedback._write_next(first, dataset.Feedback(rows=(more,), rejected=(), assignment={"again": side}), tmp_path / "grown")
    assert dataset.frequencies(dataset.read(tmp_path / "grown")) == {kept.id: 3}
    for weight, expected in (("count", {kept.id: 4}), ("none", {})):
        again = f"recipe: 1\nmodel: {tiny}\ndata: {{path: grown, checks: [{{duplicates: {{weight: {weight}}}}}]}}\n"
        (tmp_path / "again.yaml").write_text(again, encoding="utf-8")
        folder = pipeline.run(Recipe.load(tmp_path / "again.yaml"), workspace=tmp_path / "space", until="prepare").stages["prepare"].folder
        assert folder is not None
        assert dataset.frequencies(dataset.read(folder)) == expected


def test_p1_pairs_are_looked_at_unless_the_checks_are_named(tiny: Path, tmp_path: Path) -> None:
    """Every better answer is three times as long: a recipe that leaves the checks out hears of it; one that names them gets what it names."""
    pairs = [{"prompt": f"how is phone {n}?", "chosen": f"it is {n} good and loud and small", "rejected": f"bad {n}"} for n in range(90)]
    for place, data in (("left", ""), ("named", "checks: [duplicates], ")):
        (tmp_path / place).mkdir()
        folder = prepared(tiny, tmp_path / place, pairs, data)
        found = folder / "findings" / "preferences.jsonl"
        assert found.is_file() == (place == "left")
        if found.is_file():
            assert "length_bias" in found.read_text(encoding="utf-8")
