"""The train stage on preferences: references kept for every run of the workspace, figures in the curve, a second stage measured against the first, and rows of the wrong shape."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish import pipeline
from planish.errors import InputError
from planish.events import EventType
from planish.model.curve import Step
from planish.recipe import Recipe
from planish.recipe_train import TrainSection
from planish.stages import _ready, _tuning
from planish.stages._ready import Job

PAIRS = [{"prompt": f"review {n}: the sound", "chosen": f"good {n}", "rejected": f"bad phone {n}"} for n in range(120)]
SINGLE = [{"prompt": f"review {n}: the sound", "completion": f"good {n}", "label": True} for n in range(120)]
SECTION: dict[str, Any] = {"learning_rate": 1e-2, "max_steps": 24, "batch_size": 8, "validations": 2, "checkpoints": 2, "precision": "fp32"}


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[Step] = []
        self.said: list[str] = []
        self.planned: dict[str, Any] = {}

    def event(self, type: object, body: dict[str, Any], severity: str = "info") -> None:
        if type is EventType.TRAIN_PLANNED:
            self.planned = body

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, done: int, total: int) -> None:
        """Not asked about here."""

    def step(self, line: Step) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and the prepared data sets `pairs` and `single`."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=32)
    for name, rows in (("pairs", PAIRS), ("single", SINGLE)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        head = f"recipe: 1\nmodel: model\ndata: {{path: {name}.jsonl, split: {{gold: 0.3, validation: 0.2}}}}\nbaseline: [prompt]\n"
        text = head + "train:\n  - {objective: dpo, adapter: lora}\nevaluate: {scorers: [{judge: {model: m, url: http://127.0.0.1:1}}]}\n"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        outcome = pipeline.run(Recipe.load(folder / f"{name}.yaml"), workspace=folder / "space", until="prepare")
        prepared = outcome.stages["prepare"].folder
        assert prepared is not None
        (folder / name).symlink_to(prepared)
    return folder


def job(home: Path, place: Path, data: str = "pairs", start: Path | None = None, references: Path | None = None, **given: Any) -> Job:
    """One entry with a LoRA of rank 4; reference log-probabilities are its own unless a folder is named that several share."""
    section = TrainSection.model_validate({"adapter": {"lora": {"r": 4}}, **SECTION, **given})
    paths = (str(home / "model"), str(start) if start else None, str((home / data).resolve()), str(place / "work"), str(place / "out"), str(place / "tokens"))
    (place / "out").mkdir(parents=True)
    return Job(section.model_dump(mode="json"), *paths, references=str(references or place / "references"))


def test_dpo_runs_and_a_second_stage_starts_from_the_first(home: Path, tmp_path: Path) -> None:
    """From ln 2 to pairs in order, held-out ones too. An entry that goes on from that adapter begins at ln 2 again: what it starts from is its reference."""
    first, second = Heard(), Heard()
    _tuning.tune(job(home, tmp_path / "a", objective="dpo"), first)
    assert first.lines[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert first.lines[-1].loss < 0.5
    assert first.lines[-1].validation_metrics["accuracy"] > 0.9
    kept = [json.loads(path.read_bytes()) for path in (tmp_path / "a" / "references").rglob("*.json")]
    assert sum(map(len, kept)) >= 2 * 24
    assert first.planned["reference"]["computed"] == sum(map(len, kept))
    _tuning.tune(job(home, tmp_path / "b", start=tmp_path / "a" / "out" / "adapter", objective="dpo"), second)
    assert second.lines[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert second.lines[0].metrics["chosen_log_ratio"] == pytest.approx(0, abs=1e-4)


def test_a_rate_that_moves_nothing_is_said(home: Path, tmp_path: Path) -> None:
    """P2 Bad: at a learning rate of 1e-6 the loss stays at ln 2, and the run says so and what to do."""
    heard = Heard()
    _tuning.tune(job(home, tmp_path, objective="dpo", learning_rate=1e-6), heard)
    assert [text for text in heard.said if "stuck_at_ln2" in text]


def test_a_run_that_is_over_is_not_told_to_look_again(home: Path, tmp_path: Path) -> None:
    """Fewer than 20 steps show no state of preferences, and no more are coming."""
    heard = Heard()
    _tuning.tune(job(home, tmp_path, objective="dpo", learning_rate=1e-6, max_steps=5), heard)
    assert not [text for text in heard.said if "too_early" in text or "stuck_at_ln2" in text]


@pytest.mark.parametrize("objective", ["orpo", "simpo"])
def test_the_others_run(objective: str, home: Path, tmp_path: Path) -> None:
    heard = Heard()
    _tuning.tune(job(home, tmp_path, objective=objective), heard)
    assert heard.lines[-1].loss < heard.lines[0].loss
    assert not (tmp_path / "references").exists()


def test_a_reward_model_runs(home: Path, tmp_path: Path) -> None:
    heard = Heard()
    _tuning.tune(job(home, tmp_path, objective="reward", adapter={"head": {"kind": "reward", "unfreeze": 1}}), heard)
    assert heard.lines[-1].loss < 0.5 < heard.lines[0].loss


def test_rows_of_the_wrong_shape_are_refused(home: Path, tmp_path: Path) -> None:
    """Pairs for kto, single answers for dpo; p6: answers of one kind alone."""
    for place, data, objective, why in (("a", "pairs", "kto", "reads unpaired rows"), ("b", "single", "dpo", "reads preference rows")):
        with pytest.raises(InputError, match=why):
            _tuning.tune(job(home, tmp_path / place, data, objective=objective), Heard())
    with pytest.raises(InputError, match="are marked good"):
        _tuning.tune(job(home, tmp_path / "c", "single", objective="kto"), Heard())


@pytest.mark.parametrize(
    ("objective", "wrong"),
    [
        ("dpo: {beta: -1, loss: ipo, label_smoothing: 0.1}", ["dpo.beta", "dpo.label_smoothing"]),
        ("dpo: {beta: .inf}", ["dpo.beta"]),
        ("orpo: {lambda_or: .nan}", ["orpo.lambda_or"]),
        ("simpo: {beta: 0, gamma: .nan}", ["simpo.beta", "simpo.gamma"]),
        ("kto: {beta: 0, good_weight: -1}", ["kto.beta", "kto.good_weight"]),
        ("kto: {good_weight: 0, bad_weight: 0}", ["kto"]),
        ("reward: {margin: -1}", ["reward.margin"]),
    ],
)
def test_options_without_meaning_are_refused_before_anything_runs(objective: str, wrong: list[str], home: Path, tmp_path: Path) -> None:
    """Exit code 2 says that nothing was run: not after rows were prepared and baselines asked. All of them at once, each with its key."""
    adapter = "{head: {kind: reward}}" if objective.startswith("reward") else "lora"
    text = (home / "pairs.yaml").read_text(encoding="utf-8").replace("objective: dpo, adapter: lora", f"objective: {{{objective}}}, adapter: {adapter}")
    (home / "wrong.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        pipeline.run(Recipe.load(home / "wrong.yaml"), workspace=tmp_path / "space", until="train")
    assert [problem.where for problem in refused.value.problems] == [f"train[0].objective.{name}" for name in wrong]
    assert not (tmp_path / "space" / "artifacts").exists()


def test_the_test_of_an_entry_writes_no_reference(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning-rate test has no work folder: its references stay in memory."""
    monkeypatch.chdir(tmp_path)
    ready = _ready.make_ready(replace(job(home, tmp_path / "a", objective="dpo"), work="", references=None))
    assert ready.reference is not None
    assert ready.reference["computed"] == ready.reference["sequences"] > 0
    assert not list(tmp_path.rglob("references"))


def test_a_second_run_computes_no_reference(home: Path, tmp_path: Path) -> None:
    """Another rate, rank and seed in the same workspace: not one reference token is computed, and the first step's figures are those of the base."""
    first, second, shared = Heard(), Heard(), tmp_path / "references"
    _tuning.tune(job(home, tmp_path / "a", references=shared, objective="dpo", max_steps=2), first)
    other: dict[str, Any] = {"learning_rate": 1e-3, "seed": 7, "adapter": {"lora": {"r": 8}}}
    _tuning.tune(job(home, tmp_path / "b", references=shared, objective="dpo", max_steps=2, **other), second)
    assert first.planned["reference"]["tokens"] > 0
    assert second.planned["reference"] == first.planned["reference"] | {"computed": 0, "tokens": 0}
    assert second.lines[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert [text for text in second.said if ": 0 of" in text and "the others known" in text]


def test_spoilt_references_are_told_of(home: Path, tmp_path: Path) -> None:
    """A kept file that was cut: its numbers are computed again, and the run says so."""
    shared = tmp_path / "references"
    _tuning.tune(job(home, tmp_path / "a", references=shared, objective="dpo", max_steps=2), Heard())
    path = max(shared.rglob("*.json"), key=lambda one: one.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    heard = Heard()
    _tuning.tune(job(home, tmp_path / "b", references=shared, objective="dpo", max_steps=2), heard)
    assert [text for text in heard.said if "1 files of kept reference log-probabilities were spoilt" in text]
    assert 0 < heard.planned["reference"]["computed"] <= heard.planned["reference"]["sequences"]
