"""`planish retained` over runs: the tuned model of one, a baseline of another, the slices of their gold set (MISSION S5)."""

from __future__ import annotations

import json
import random
from dataclasses import fields
from pathlib import Path

import pytest
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import pipeline, retained
from planish.cli import app
from planish.data.task import Task
from planish.errors import InputError
from planish.events import EventType
from planish.model.asker import told_of
from planish.model.engine import Decoding
from planish.recipe import Recipe
from planish.recipe_evaluate import DecodingSection
from planish.store import Store

WORDS = ["red", "blue", "green", "old", "new", "small", "large", "quick", "slow", "warm"]
ENTRY = "{objective: sft, adapter: %s, learning_rate: 1e-3, max_steps: 2, batch_size: 8, validations: 0, checkpoints: 0, precision: fp32}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Two runs over the same 160 rows of two kinds: all weights trained, and an adapter as its control."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model")
    draw = random.Random(3)
    rows = [{"text": " ".join(draw.choices(WORDS, k=9)), "label": ("good", "bad")[n % 2], "kind": ("prose", "list")[n // 2 % 2]} for n in range(160)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    runs = []
    for adapter in ("full", "{lora: {r: 2}}"):
        (folder / "recipe.yaml").write_text(
            "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.4}, checks: []}\nbaseline: [majority, prompt]\n"
            f"train: [{ENTRY % adapter}]\nevaluate: {{general: []}}\n",
            encoding="utf-8",
        )
        runs.append(pipeline.run(Recipe.load(folder / "recipe.yaml"), workspace=folder / "work", until="evaluate").run_id)
    return folder, runs


def test_s5_runs_are_judged_by_slice_with_size_and_time(home: tuple[Path, list[str]], tmp_path: Path) -> None:
    """The student is the tuned model of its run, the teacher the model as it was: labels, lengths and the column `kind` are slices, the weights are as large, and the
    reading of the gold rows is an event."""
    folder, (student, control) = home
    asked = ["retained", student, f"{student}:prompt", "--control", control, "--metric", "label.accuracy", "--workspace", str(folder / "work")]
    said = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "report.json")])
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert said.exit_code == (0 if told["ship"] else 3), said.output
    assert {one["key"] for one in told["slices"]["slices"]} >= {"kind", "label"}
    assert told["control"] == "lora"
    assert told["size_ratio"] == pytest.approx(1, abs=0.05)
    assert told["seconds_ratio"] > 0
    assert "by slice, label.accuracy" in said.output
    assert "student / teacher: bytes of weights 1.0" in said.output
    assert told["decoding_unknown"] == []
    store = Store(folder / "work")
    assert EventType.GOLD_READ in [event.type for event in store.events(student)][-3:]
    store.close()


def test_report_files_have_their_labels_as_slices(home: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, (student, control) = home
    names = []
    for run in (student, f"{student}:prompt", control):
        found = retained.answered(run, folder / "work").report
        names.append(str(tmp_path / f"{found.system}.json"))
        Path(names[-1]).write_text(found.model_dump_json(), encoding="utf-8")
    found = retained.judge(*names, "label.accuracy", workspace=tmp_path / "none")
    assert {one.key for one in found.slices.slices} == {"label"}
    assert found.size_ratio is None


def test_every_name_that_is_neither_a_file_nor_a_run_is_told_at_once(home: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, (student, _) = home
    (tmp_path / "torn.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        retained.judge(str(tmp_path / "torn.json"), "nowhere", f"{student}:promt", "label.accuracy", workspace=folder / "work")
    whys = [problem.why for problem in refused.value.problems]
    assert [whys[0], whys[1], whys[2]] == ["is no report of an evaluation", "no run has this id", 'scored no "promt"']
    assert "prompt" in refused.value.problems[2].fix
    with pytest.raises(InputError, match="there are no runs"):
        retained.judge("a", "b", "c", "label.accuracy", workspace=tmp_path / "none")


@pytest.mark.parametrize(
    ("curve", "why"), [(None, "cannot be read"), ("not json\n", "curve.jsonl:1 is no step"), ('{"step": 1}\n[]\n', "curve.jsonl:2 is no step")]
)
def test_a_curve_that_is_none_is_refused_with_its_line(home: tuple[Path, list[str]], tmp_path: Path, curve: str | None, why: str) -> None:
    folder, (student, control) = home
    path = tmp_path / "curve.jsonl"
    if curve is not None:
        path.write_text(curve, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        retained.judge(student, f"{student}:prompt", control, "label.accuracy", curve=path, workspace=folder / "work")
    [problem] = refused.value.problems
    assert why in f"{problem.where} {problem.why}"


def test_s5_a_report_carries_how_its_answers_were_made(home: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Labels are chosen by the tuned model and by its base; the majority asks no model, and says so. Another decoding on one side is refused by the verb."""
    folder, (student, control) = home
    found = {name: retained.answered(name, folder / "work").report for name in (student, f"{student}:prompt", f"{student}:majority")}
    assert [one.decoding for one in found.values()] == [{"choice": "the most probable label"}] * 2 + [None]
    sampled = found[student].model_copy(update={"decoding": {"temperature": 0.7}})
    (tmp_path / "student.json").write_text(sampled.model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match=r"decoded otherwise: choice None against the most probable label, temperature 0\.7 against None"):
        retained.judge(str(tmp_path / "student.json"), f"{student}:prompt", control, "label.accuracy", workspace=folder / "work")


def test_every_setting_of_a_written_answer_is_kept() -> None:
    """Those that the recipe gives and those that are the task's own, the constraint as the recipe wrote it; it goes to JSON and back unchanged."""
    given = DecodingSection.model_validate({"temperature": 0.5, "stop": ["\n"], "constraint": {"regex": "[ab]+"}})
    kept = told_of(Task(shape="chat"), given)
    assert kept == json.loads(json.dumps(kept))
    assert (kept["temperature"], kept["stop"], kept["constraint"], kept["max_new_tokens"]) == (
        0.5,
        ["\n"],
        {"regex": "[ab]+"},
        Task(shape="chat").kind.max_new_tokens,
    )
    assert {field.name for field in fields(Decoding)} == kept.keys()
