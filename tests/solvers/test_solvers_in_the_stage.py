"""The baseline stage with every solver that a question task has, on a random model: what is reported of each, and what makes it run anew."""

import json
from pathlib import Path

import pytest

from planish import pipeline
from planish.errors import InputError
from planish.recipe import Recipe
from planish.stages._context import read_reports

RECIPE = """\
recipe: 1
model: MODEL
data: {path: rows.jsonl, task: qa, checks: []}
baseline: [copy_input, empty, {prompt: {prompts: ["Say it."]}}, {few_shot: {k: 1, pick: similar}}, {rag: {path: handbook, k: 2, words: 20, overlap: 4}}]
evaluate: {scorers: [f1], general: []}
"""


@pytest.fixture
def home(tmp_path: Path, tiny: Path) -> Path:
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "a.txt").write_text(" ".join(f"Keeper {n} is Ann{n}." for n in range(60)), encoding="utf-8")
    rows = [json.dumps({"question": f"Who is keeper {n}?", "answer": f"Ann{n}"}) for n in range(150)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(tiny)), encoding="utf-8")
    return tmp_path


def run(home: Path) -> pipeline.StageOutcome:
    return pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until="baseline").stages["baseline"]


@pytest.mark.slow
def test_every_solver_reports_and_other_documents_are_another_baseline(home: Path) -> None:
    first = run(home)
    assert first.folder is not None
    reports = read_reports(first.folder)
    assert set(reports) == {"copy_input", "empty", "prompt", "few_shot", "rag"}
    assert reports["empty"].metrics["f1.f1"].value == 0
    rag = reports["rag"].metrics
    assert {"rag.recall_at_2", "rag.answerable", "rag.cites"} <= set(rag)
    assert rag["rag.recall_at_2"].low is not None
    assert "1 documents in" in reports["rag"].details["retrieval"]
    assert reports["prompt"].details["prompts"].startswith("on 15 validation rows")
    over = reports["few_shot"].metrics["f1.f1.over_seeds"]
    assert (over.n, over.method) == (3, "range of 3 seeds")
    assert "mean" in reports["few_shot"].details["seeds"]
    assert "of 1 examples before" in reports["few_shot"].details["shots"]
    assert run(home).status == "unchanged"
    (home / "handbook" / "b.txt").write_text("Keeper 99 is Ann99.", encoding="utf-8")
    assert run(home).status == "done"


def test_a_folder_of_documents_that_is_not_there_is_refused_before_anything_runs(home: Path) -> None:
    text = (home / "recipe.yaml").read_text(encoding="utf-8")
    (home / "recipe.yaml").write_text(text.replace("path: handbook", "path: handbok"), encoding="utf-8")
    with pytest.raises(InputError, match="handbok"):
        run(home)
