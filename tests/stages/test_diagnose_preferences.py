"""`planish diagnose` on runs that learnt from preferences: what their objective says of the figures, and whether answers to gold grew (MISSION P1, P2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import diagnose, pipeline
from planish.cli import app
from planish.events import EventType
from planish.evidence.longer_answers import TOKENS
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages._context import read_reports
from planish.store import Store

PAIRS = [{"prompt": f"review {n}: the sound", "chosen": f"good {n}", "rejected": f"bad phone {n}"} for n in range(120)]
DPO = "{objective: dpo, adapter: {lora: {r: 4}}, learning_rate: 1e-6, max_steps: 24, batch_size: 8, validations: 5, checkpoints: 0, precision: fp32}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of dpo at a rate that moves nothing, its base and its tuned model asked to write."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    head = "recipe: 1\nmodel: model\ndata: {path: pairs.jsonl, split: {gold: 0.3, validation: 0.2}, checks: []}\nbaseline: [prompt]\n"
    tail = f"train: [{DPO}]\nevaluate: {{scorers: [{{verifier: {{kind: exact}}}}], general: [], decoding: {{max_new_tokens: 6}}}}\n"
    (folder / "recipe.yaml").write_text(head + tail, encoding="utf-8")
    outcome = pipeline.run(Recipe.load(folder / "recipe.yaml"), workspace=folder / "work", until="evaluate")
    return folder / "work", outcome.run_id


def test_p2_the_objectives_own_word_is_the_doctors(run: tuple[Path, str]) -> None:
    """P2 Bad: stuck at ln 2. It is said by `planish diagnose`, with words, evidence and fix, and in its JSON; the curve is not called healthy beside it."""
    workspace, name = run
    said = CliRunner().invoke(app, ["diagnose", name, "--workspace", str(workspace)])
    assert said.exit_code == 0, said.output
    assert "the preference loss never left ln 2, since step" in said.output
    assert "raise learning_rate" in said.output
    [told] = json.loads(CliRunner().invoke(app, ["diagnose", name, "--workspace", str(workspace), "--json"]).output)
    states = [one["state"] for one in told["diagnosis"]]
    assert "stuck_at_ln2" in states
    assert "healthy" not in states
    assert "longer_answers" not in states


def test_p2_a_run_that_still_trains_is_told_the_same(run: tuple[Path, str], tmp_path: Path) -> None:
    """The events of the run up to the end of its training, in a store of their own, as another process reads them before the result is there."""
    workspace, name = run
    done, now = Store(workspace), Store(tmp_path)
    live = now.start_run("", done.run(name)["recipe"], "", "", None)
    for event in done.events(name):
        if event.type in (EventType.TRAIN_PLANNED, EventType.TRAIN_CURVE):
            now.event(live, event.type, event.subject, event.body)
    [examined] = diagnose.of(live, tmp_path)
    assert examined.name.endswith("(still training)")
    [stuck] = [one for one in examined.found if one.state == "stuck_at_ln2"]
    assert stuck in diagnose.of(name, workspace)[0].found
    assert "healthy" not in {one.state for one in examined.found}


def grown(report: EvalReport, times: float) -> EvalReport:
    """The report as if its answers had been so many times as long."""
    scores = [score.model_copy(update={"detail": score.detail | {TOKENS: times * score.detail[TOKENS]}}) for score in report.scores]
    metric = report.metrics[TOKENS]
    return report.model_copy(update={"scores": scores, "metrics": report.metrics | {TOKENS: metric.model_copy(update={"value": times * metric.value})}})


def test_p2_a_run_whose_answers_to_gold_grew_is_named(run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuned model's report, read as if it had written 1.5 times as much: said of the whole run, with the number of gold rows."""
    workspace, name = run

    def read(folder: Path) -> dict[str, EvalReport]:
        return {system: grown(report, 1.5) if system == "lora" else report for system, report in read_reports(folder).items()}

    assert "longer_answers" not in {one.state for one in diagnose.of(name, workspace)[0].found}
    monkeypatch.setattr(diagnose, "read_reports", read)
    [found] = [one for one in diagnose.of(name, workspace)[0].found if one.state == "longer_answers"]
    assert "answers to 36 gold rows have 9 tokens, 1.50 times the 6 of the base" in found.evidence
    assert "its answers grew longer" in diagnose.text(diagnose.of(name, workspace))


def test_figures_that_are_no_objectives_are_read_as_a_curve(tmp_path: Path) -> None:
    """A metrics.jsonl alone, and one whose lines have no figures of the objective: the curve is judged, nothing else is."""
    lines: list[dict[str, Any]] = [{"step": step, "loss": 0.6931, "grad_norm": 1.0, "learning_rate": 1e-6} for step in range(1, 25)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    report = {"objective": {"name": "dpo"}, "adapter": {"name": "lora"}}
    for told in (None, report):
        if told is not None:
            (tmp_path / "report.json").write_text(json.dumps(told), encoding="utf-8")
        assert "stuck_at_ln2" not in {one.state for one in diagnose.of(str(tmp_path), tmp_path)[0].found}
