"""The recipe: strict, with every error at once and its line, before any work (MISSION X2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.errors import InputError
from planish.recipe import Recipe

RIGHT = """\
recipe: 1
model: smollm2-135m-instruct
data: {path: rows.jsonl, labels: [a, b]}
train:
  - {objective: sft, adapter: {lora: {r: 8}}, learning_rate: 2e-4, epochs: 1}
observe: {every: 6h}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_right_recipe_is_read(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, RIGHT))
    assert recipe.train[0].learning_rate == 2e-4  # YAML 1.1 loaders read this as a string
    assert recipe.train[0].adapter.options == {"r": 8}
    assert recipe.observe is not None
    assert recipe.observe.every == 6 * 3600
    assert recipe.resolve(Path("rows.jsonl")) == tmp_path / "rows.jsonl"


def test_layout_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    """Comments, order and where the file lies are not the recipe; a changed value is another recipe."""
    first = Recipe.load(written(tmp_path, RIGHT)).fingerprint
    lines = RIGHT.splitlines()
    (tmp_path / "b").mkdir()
    assert Recipe.load(written(tmp_path / "b", "# again\n" + "\n".join([lines[1], lines[0], *lines[2:]]))).fingerprint == first
    assert Recipe.load(written(tmp_path, RIGHT.replace("r: 8", "r: 4"))).fingerprint != first


def test_x2_worked_example(tmp_path: Path) -> None:
    """MISSION X2: `adapter: {lroa: ...}` on line 9 of a file is named with its line and "lora?"."""
    text = "recipe: 1\nmodel: m\ndata:\n  path: rows.jsonl\n\ntrain:\n  -\n    objective: sft\n    adapter: {lroa: {r: 16}}\n"
    path = written(tmp_path, text)
    with pytest.raises(InputError) as refused:
        Recipe.load(path)
    (problem,) = refused.value.problems
    assert problem.where.startswith(f"{path}:9 train[0].adapter")
    assert "lora" in problem.fix


def test_every_error_at_once(tmp_path: Path) -> None:
    text = """\
recipe: 1
model: m
data: {path: rows.jsonl, tusk: chat, split: {gold: 2}}
baseline: [majority, promt]
train:
  - {objective: sft, adapter: {lora: {rank: 8}}, learning_rat: 1}
gate: ["label.macro_f1 ~ 3"]
serve: {port: 99999}
observe: {every: soon}
"""
    with pytest.raises(InputError) as refused:
        Recipe.load(written(tmp_path, text))
    assert refused.value.exit_code == 2
    lines = [int(problem.where.rpartition(":")[2].split()[0]) for problem in refused.value.problems]
    assert lines == [3, 3, 4, 6, 6, 7, 8, 9]
    assert all(problem.why for problem in refused.value.problems)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("recipe: [1", "not YAML"),
        ("- a list", "top level"),
        (RIGHT.replace("epochs: 1", "epochs: 1, max_steps: 5"), "keep one"),
        (RIGHT.replace("data: {path: rows.jsonl, labels: [a, b]}", "data: {path: x, split: {gold: 0.6, validation: 0.5}}"), "no row to train on"),
        (RIGHT.replace("recipe: 1", "recipe: 2"), "should be 1"),
    ],
)
def test_refusals(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Recipe.load(written(tmp_path, text))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Recipe.load(tmp_path / "none.yaml")


def test_the_example_recipe_is_right() -> None:
    Recipe.load(Path(__file__).parents[2] / "examples" / "reviews" / "recipe.yaml")
