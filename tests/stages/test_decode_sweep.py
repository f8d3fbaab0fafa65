"""`planish decode-sweep` and the recipe's `decoding:` block: settings tried on validation rows, gold never read, nothing chosen in silence (MISSION E2, R-4)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import decode_sweep, pipeline
from planish.cli import app
from planish.data import gold
from planish.data.task import make
from planish.errors import InputError
from planish.model.asker import decoding_of
from planish.model.constraint import Constraint
from planish.model.engine import Decoding
from planish.progress import Silent
from planish.recipe import Recipe
from planish.recipe_evaluate import DecodingSection

QUESTIONS = [{"question": f"what is number {n} like", "answer": "good phone" if n % 2 else "bad sound"} for n in range(200)]
LABELS = [{"text": f"the phone {n} is {'good' if n % 2 else 'bad'}", "label": "positive" if n % 2 else "negative"} for n in range(200)]


def recipe_of(home: Path, name: str, more: str = "") -> Recipe:
    text = f"recipe: 1\nmodel: model\ndata: {{path: {name}.jsonl, split: {{gold: 0.3, validation: 0.2}}, checks: []}}\nbaseline: [prompt]\n{more}"
    (home / f"{name}.yaml").write_text(text, encoding="utf-8")
    return Recipe.load(home / f"{name}.yaml")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    make_tiny(folder / "model", hidden=32)
    for name, rows in (("qa", QUESTIONS), ("labels", LABELS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        scorers = "evaluate: {scorers: [f1, exact], decoding: {max_new_tokens: 5}}\n" if name == "qa" else ""
        pipeline.run(recipe_of(folder, name, scorers), workspace=folder / "space", until="prepare")
    return folder


def test_e2_every_setting_is_tried_on_validation_rows_and_gold_is_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("gold was read")

    monkeypatch.setattr(gold, "read", touched)
    found = decode_sweep.sweep(Recipe.load(home / "qa.yaml"), "f1.f1 >= 0", home / "space", Silent(), rows=30)
    assert found.rows == 30
    names = [one.name for one in found.tried]
    assert names[:3] == ["greedy", "10 new tokens", "penalty 1.1"]  # a random model never stops, so the second gives it twice the room
    assert [one.tokens for one in found.tried[:2]] == [5, 10]
    assert [one.cut for one in found.tried[:2]] == [1, 1]
    assert all(one.decoding["max_new_tokens"] == 5 for one in found.tried if one.name != "10 new tokens")
    assert found.cleared
    assert found.best == "greedy"  # all clear a bar of 0: the first, which is the plainest
    assert "evaluate: {decoding: {temperature: 0.0, max_new_tokens: 5}}" in decode_sweep.text(found)


def test_e2_where_none_clears_the_bar_it_says_so_and_exits_3(home: Path) -> None:
    asked = ["decode-sweep", str(home / "qa.yaml"), "--goal", "f1.f1 >= 0.99", "--rows", "30", "--workspace", str(home / "space")]
    plain = CliRunner().invoke(app, asked)
    assert plain.exit_code == 3
    assert "cannot add skill" in plain.stdout
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert told["cleared"] is False
    assert {one["name"] for one in told["tried"]} >= {"greedy", "penalty 1.3", "T 1, min_p 0.1"}


@pytest.mark.parametrize(
    ("name", "goal", "rows", "word"),
    [
        ("qa", "f1.f2 >= 0.5", None, "not valid for qa"),
        ("qa", "f1.f1 > base.f1.f1", None, "another system"),
        ("qa", "f1.f1 ~ 1", None, "cannot read"),
        ("qa", "citation.f1 >= 0.5", None, "does not score by"),
        ("labels", "label.macro_f1 >= 0.5", None, "no decoding setting changes it"),
        ("qa", "f1.f1 >= 0.5", 12, "too few"),
    ],
)
def test_e2_what_cannot_be_swept_is_refused(home: Path, name: str, goal: str, rows: int | None, word: str) -> None:
    recipe = Recipe.load(home / f"{name}.yaml")
    with pytest.raises(InputError, match=word):
        decode_sweep.sweep(recipe, goal, home / "space", Silent(), rows=rows)


def test_a_recipe_that_was_never_prepared_is_refused(home: Path) -> None:
    with pytest.raises(InputError, match="planish prepare"):
        decode_sweep.sweep(Recipe.load(home / "qa.yaml"), "f1.f1 >= 0.5", home / "elsewhere", Silent())


def test_e2_the_recipe_says_how_answers_are_made() -> None:
    """What is given wins, what is left out is the task's own: greedy, with the room of its shape (64 for qa)."""
    task = make("qa")
    assert decoding_of(task) == Decoding(max_new_tokens=64)
    told = DecodingSection.model_validate({"temperature": 0.7, "stop": ["\n"], "constraint": {"regex": "a+"}})
    assert decoding_of(task, told) == Decoding(max_new_tokens=64, temperature=0.7, stop=("\n",), constraint=Constraint.regex("a+"))
    labelled = make("classification", ["a", "b"])
    with pytest.raises(InputError, match="one of its labels"):
        decoding_of(labelled, told)


def test_e2_bad_decoding_keys_are_named_with_their_line(tmp_path: Path) -> None:
    more = "evaluate:\n  decoding:\n    temperature: -1\n    top_p: 1.2\n    constraint: {regex: a, grammar: b}\n    beams: 3\n"
    with pytest.raises(InputError) as refused:
        recipe_of(tmp_path, "bad", more)
    places = [problem.where.partition(":")[2] for problem in refused.value.problems]
    assert places == ["7 evaluate.decoding.temperature", "8 evaluate.decoding.top_p", "9 evaluate.decoding.constraint", "10 evaluate.decoding.beams"]
