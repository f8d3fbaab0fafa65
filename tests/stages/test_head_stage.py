"""A head of classes through the whole line: rows, the trunk computed once, a label by the head, and what it cannot be asked for (MISSION A11)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny

from planish import pipeline
from planish.data import dataset
from planish.errors import InputError
from planish.model.asker import options
from planish.model.chat import Chat
from planish.model.class_head import class_logits
from planish.model.engine import Decoding
from planish.model.head_engine import HeadEngine, classify
from planish.model.trained import open_trained
from planish.recipe import Recipe
from planish.stages._context import read_json, read_reports
from planish.store import Store

ENTRY: dict[str, Any] = {
    "objective": "classify",
    "adapter": "head",
    "learning_rate": 0.1,
    "epochs": 20,
    "patience": None,
    "keep": "last",
    "batch_size": 8,
    "validations": 2,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and 150 rows whose label is one of three words in them."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=48)
    words = ("good", "bad", "neutral")
    rows = [{"text": f"{words[n % 3]} phone {words[n % 3]} sound {words[n % 3]} {n}", "label": words[n % 3]} for n in range(150)]
    stars = [{"text": f"{words[n % 3]} phone {words[n % 3]} sound {words[n % 3]} {n}", "label": str(1 + n % 3)} for n in range(150)]
    rare = [*rows, *({"text": f"awful {n}", "label": "awful"} for n in range(4))]
    for name, some in (("rows", rows), ("stars", stars), ("rare", rare)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return folder


def recipe(home: Path, data: str = "rows", labels: str = "[bad, neutral, good]", more: str = "", **entry: Any) -> Recipe:
    path = home / "recipe.yaml"
    text = f"recipe: 1\nmodel: model\ndata: {{path: {data}.jsonl, labels: {labels}, split: {{gold: 0.3, validation: 0.2}}, checks: []}}\nbaseline: [majority]\n"
    text += f"evaluate: {{scorers: [label], general: []}}\ngate: ['label.accuracy >= 0']\n{more}train: [{json.dumps({**ENTRY, **entry})}]\n"
    path.write_text(text, encoding="utf-8")
    return Recipe.load(path)


def steps(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a11_a_head_is_trained_scored_and_opened_again(home: Path, tmp_path: Path, pooling: str) -> None:
    """From ln 3 (a head of zeros) to a label that is right on gold; the saved head gives the same answers, in the order of the task's labels; chance is the labels' entropy."""
    done = pipeline.run(recipe(home, adapter={"head": {"pooling": pooling}}), workspace=tmp_path, until="evaluate")
    trained, prepared, evaluated = (done.stages[name].folder for name in ("train", "prepare", "evaluate"))
    assert trained is not None
    assert prepared is not None
    assert evaluated is not None
    lines, report = steps(trained), read_json(trained / "report.json")
    assert lines[0]["loss"] == pytest.approx(1.0986, abs=1e-3)
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["metrics"]["accuracy"] > 0.8
    assert report["chance"] == pytest.approx(1.0986, abs=0.02)
    assert report["trainable"] == 3 * 48 + 3
    assert report["trained_tokens"] > report["rows"]
    scored = read_reports(evaluated)["head"]
    assert (scored.metrics["label.accuracy"].low or 0) > 1 / 3
    model, chat = open_trained(home / "model", trained, "fp32"), Chat.load(home / "model")
    data = dataset.read(prepared)
    sample = [row for row in data.rows("validation")][:5]
    prompts = [chat.prompt(data.task.asked(row).messages) for row in sample]
    logits = classify(model, prompts, "fp32")
    assert torch.allclose(logits, class_logits(model, prompts, "fp32"), atol=1e-5)
    assert data.task.labels == ("bad", "neutral", "good")
    said = HeadEngine(model, chat, "fp32").choose(prompts, options(chat, data.task.labels))
    assert torch.allclose(torch.tensor(said), logits.softmax(-1), atol=1e-6)


def test_a11_the_trunk_is_run_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached features: the curve with the frozen trunk on disk (a head's way) is the curve without it (1e-5); with a layer unfrozen, too."""
    monkeypatch.setattr(Store, "forget_work", lambda *_: None)  # whether the trunk was kept on disk is looked at
    curves = []
    upper: dict[str, Any] = {"adapter": {"head": {"unfreeze": 1}}}
    for place, more in enumerate(({}, {"trunk_cache_mb": 0}, upper, {**upper, "trunk_cache_mb": 0})):
        done = pipeline.run(recipe(home, max_steps=8, epochs=None, **more), workspace=tmp_path / str(place), until="train")
        folder = done.stages["train"].folder
        assert folder is not None
        curves.append([line["loss"] for line in steps(folder)])
        works = list((tmp_path / str(place)).rglob("trunk-0.bin"))
        assert bool(works) == (place % 2 == 0)
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    assert curves[2] == pytest.approx(curves[3], rel=1e-4)
    assert curves[0][-1] != pytest.approx(curves[2][-1], rel=1e-3)


def test_a11_a_label_without_a_training_row_is_refused(home: Path, tmp_path: Path) -> None:
    """Declared, with rows in the file, and with none among the eight that are trained on: its class could never be learned. Nothing is trained."""
    with pytest.raises(InputError, match='label "awful" has no row in train') as refused:
        pipeline.run(recipe(home, data="rare", labels="[bad, neutral, good, awful]", max_rows=8), workspace=tmp_path, until="train")
    assert len(refused.value.problems) == 1


def test_a11_regression_answers_with_the_nearest_label(home: Path, tmp_path: Path) -> None:
    """Labels 1, 2, 3: from (1 + 4 + 9) / 6 = 2.33, half the mean square, as the head says 0 at first; its answer is the label that is nearest to its value."""
    entry: dict[str, Any] = {"objective": "regress", "adapter": {"head": {"kind": "regression", "pooling": "mean"}}}
    done = pipeline.run(recipe(home, data="stars", labels="['1', '2', '3']", **entry), workspace=tmp_path, until="evaluate")
    trained, evaluated = done.stages["train"].folder, done.stages["evaluate"].folder
    assert trained is not None
    assert evaluated is not None
    lines, report = steps(trained), read_json(trained / "report.json")
    assert lines[0]["loss"] == pytest.approx(14 / 6, abs=0.6)
    assert report["chance"] == pytest.approx(1 / 3, abs=0.02)
    assert lines[-1]["validation_loss"] < report["chance"]
    assert (read_reports(evaluated)["head"].metrics["label.accuracy"].low or 0) > 1 / 3
    engine = HeadEngine(open_trained(home / "model", trained, "fp32"), Chat.load(home / "model"), "fp32")
    prompts = [engine.chat.encode("the phone is good"), engine.chat.encode("bad")]
    values = classify(engine.model, prompts, "fp32")[:, 0]
    said = torch.tensor(engine.choose(prompts, options(engine.chat, ["1", "2", "3"])))
    assert said.argmax(-1).tolist() == (values[:, None] - torch.tensor([1.0, 2.0, 3.0])).abs().argmin(-1).tolist()
    with pytest.raises(InputError, match='"x" is no number'):
        engine.choose(prompts, options(engine.chat, ["1", "x"]))


@pytest.mark.parametrize(
    ("entry", "more", "why"),
    [
        ({"adapter": "lora"}, "", "classify needs a head"),
        ({"objective": "sft"}, "", "sft trains no head"),
        ({"adapter": {"head": {"kind": "regression"}}}, "", "classify trains a classification head, and this is one of regression"),
        ({}, "compress: {export: [gguf]}\n", "HEAD cannot be merged: a head of classes has no place"),
    ],
)
def test_a11_what_does_not_go_together_is_refused_before_anything_runs(home: Path, tmp_path: Path, entry: dict[str, Any], more: str, why: str) -> None:
    """An objective and a head of another kind, and a GGUF file of a head, which it could not hold."""
    with pytest.raises(InputError, match=why):
        pipeline.run(recipe(home, more=more, **entry), workspace=tmp_path)
    assert Store(tmp_path).runs() == []


def test_a11_other_labels_or_no_numbers_are_refused(home: Path, tmp_path: Path) -> None:
    """Labels in the adapter that are not the task's, and names where numbers are needed."""
    refused: list[tuple[dict[str, Any], str]] = [
        ({"adapter": {"head": {"labels": ["good", "bad", "neutral"]}}}, "are not the task's: bad, neutral, good"),
        ({"objective": "regress", "adapter": {"head": {"kind": "regression"}}}, 'the label "bad" is no number'),
    ]
    for place, (entry, why) in enumerate(refused):
        with pytest.raises(InputError, match=why):
            pipeline.run(recipe(home, **entry), workspace=tmp_path / str(place), until="train")


def test_a11_a_head_writes_no_text(home: Path) -> None:
    """MISSION A11 Not: it cannot generate, and it has no other class than its own; a reward chooses no label."""
    from planish import shelf
    from planish.model.load import load

    chat = Chat.load(home / "model")
    engine = HeadEngine(shelf.call("adapters", "head", "attach", {"labels": ["a", "b"]})(load(home / "model", "fp32")), chat, "fp32")
    with pytest.raises(InputError, match="writes no text"):
        engine.generate([[1, 2]], Decoding())
    with pytest.raises(InputError, match='the head has no class "c"'):
        engine.choose([[1, 2]], options(chat, ["a", "c"]))
    assert engine.choose([[1, 2]], options(chat, ["a", "b"])) == [[0.5, 0.5]]
    reward = HeadEngine(shelf.call("adapters", "head", "attach", {"kind": "reward"})(load(home / "model", "fp32")), chat, "fp32")
    with pytest.raises(InputError, match="a reward head rates answers"):
        reward.choose([[1, 2]], options(chat, ["a", "b"]))
