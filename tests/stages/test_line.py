"""The whole line on a random two-layer model: mechanics only. All nine stages, what is skipped on the second run, what a gate's no does, and how input is refused."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import pipeline, report
from planish.cli import app
from planish.data import dataset
from planish.errors import InputError
from planish.events import STAGES, EventType
from planish.recipe import Recipe
from planish.stages._context import read_json
from planish.stages._deployment import live
from planish.store import Store

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [good, bad], split: {group_by: shop, gold: 0.3}}
baseline: [majority, prompt, {few_shot: {k: 2}}]
train:
  - {objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-2, max_steps: 6, batch_size: 8, validations: 2, checkpoints: 3, precision: fp32}
evaluate: {scorers: [label], general: []}
gate: ["label.accuracy >= 0.99"]
compress: {export: [{gguf: {quant: F16}}], gate: ["size_ratio < 2"]}
serve: {engine: {llamacpp: {context: 256, slots: 1, threads: 1}}, port: PORT}
observe: {every: 1d}
feedback: {corrections: corrections.jsonl}
"""


def rows(count: int = 160) -> str:
    """Half good, half bad, 40 shops; every 10th row repeats a text of its shop, so that duplicates are found."""
    lines = []
    for index in range(count):
        label = ("good", "bad")[index % 2]
        words = hashlib.sha256(str(index).encode()).hexdigest()
        lines.append(json.dumps({"text": f"phone {words[:12]} {words[12:24]} is {label}", "label": label, "shop": f"s{index % 40}"}))
    return "\n".join([*lines, *lines[:3]]) + "\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder with rows, a model and a recipe on a free port; what it left running is stopped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make_tiny(tmp_path / "model", hidden=64)
    (tmp_path / "rows.jsonl").write_text(rows(), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("PORT", str(port)), encoding="utf-8")
    yield tmp_path
    if (tmp_path / "work").is_dir():
        store = Store(tmp_path / "work")
        for deployment in live(store):
            deployment.stop()
        store.close()


def run(home: Path, until: str = "feedback", unproven: bool = False) -> pipeline.RunOutcome:
    return pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until=until, unproven=unproven)


def status(outcome: pipeline.RunOutcome) -> dict[str, str]:
    return {stage: one.status for stage, one in outcome.stages.items()}


def edit(home: Path, old: str, new: str) -> None:
    text = (home / "recipe.yaml").read_text(encoding="utf-8")
    assert old in text
    (home / "recipe.yaml").write_text(text.replace(old, new), encoding="utf-8")


def test_all_nine_stages_and_what_a_second_run_skips(home: Path) -> None:
    first = run(home, "observe", unproven=True)
    assert first.exit_code == 3  # the gate asks .99 of a random model
    assert set(status(first).values()) == {"done"}
    assert not list((home / "work" / "work").iterdir())  # checkpoints are for going on, and there is nothing left to go on with
    served = first.stages["serve"].folder
    assert served is not None
    answers = read_json(served / "answers.json")
    assert len(answers) == 3
    assert all(answer["answer"] in ("good", "bad") for answer in answers)
    (home / "corrections.jsonl").write_text(json.dumps({"log_id": answers[0]["log_id"], "corrected": "good"}) + "\n", encoding="utf-8")

    second = run(home, unproven=True)
    assert status(second) == {stage: "done" if stage == "feedback" else "unchanged" for stage in STAGES}
    grown_folder = second.stages["feedback"].folder
    assert grown_folder is not None
    said = read_json(grown_folder / "feedback.json")
    assert (said["with_text"], said["corrections"]) == (3, 1)  # the gold re-run leaves no text in the log
    assert said["rows_added"] + len(said["refused"]) == 1
    assert dataset.read(grown_folder / "dataset").manifest.version == 2
    again = Recipe.load(grown_folder / "next_recipe.yaml")
    assert again.parent == second.run_id
    prepared = pipeline.run(again, workspace=home / "work", until="prepare").stages["prepare"].folder
    assert prepared is not None
    before, after = (dataset.assignment(dataset.read(folder)) for folder in (first.stages["prepare"].folder, prepared))  # type: ignore[arg-type]
    assert before.items() <= after.items()  # growth keeps every stored assignment

    edit(home, "label.accuracy >= 0.99", "label.accuracy >= 0.98")
    assert status(run(home, unproven=True)) == {stage: "done" if stage == "gate" else "unchanged" for stage in STAGES}

    store = Store(home / "work")
    assert store.verify() is None
    types = [event.type for event in store.events(first.run_id)]
    assert types[0] is EventType.RUN_STARTED
    assert types[-1] is EventType.RUN_REFUSED
    page = report.write(home / "work", second.run_id).read_text(encoding="utf-8")
    store.close()
    assert "UNPROVEN" in page
    assert "<svg" in page
    for line in ("Ladder", "Gate", "Package", "gold re-run on the endpoint"):
        assert line in page


def test_a_gates_no_stops_the_run_with_3(home: Path) -> None:
    outcome = run(home)
    assert outcome.exit_code == 3
    assert status(outcome) == {stage: "done" if STAGES.index(stage) <= STAGES.index("gate") else "skipped" for stage in STAGES}
    assert outcome.stages["serve"].reason == "gate"


def test_full_fine_tuning_goes_through_to_its_file(home: Path) -> None:
    edit(home, "adapter: {lora: {r: 4}}, learning_rate: 1e-2", "adapter: full, learning_rate: 1e-3")
    folder = run(home, "compress", unproven=True).stages["compress"].folder
    assert folder is not None
    [file] = read_json(folder / "compress_report.json")["files"]
    assert (folder / file["file"]).is_file()


def test_a_stage_whose_needs_are_not_asked_for_is_refused(home: Path) -> None:
    text = (home / "recipe.yaml").read_text(encoding="utf-8")
    (home / "recipe.yaml").write_text(
        "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("train", "  - {", "serve"))), encoding="utf-8"
    )
    with pytest.raises(InputError) as refused:
        run(home)
    assert {(problem.where, problem.why.split()[1]) for problem in refused.value.problems} >= {
        ("compress", "train,"),
        ("observe", "serve,"),
        ("feedback", "serve,"),
    }


def test_duplicates_never_cross_splits(home: Path) -> None:
    folder = run(home, "prepare").stages["prepare"].folder
    assert folder is not None
    counts = dataset.read(folder).manifest.counts
    assert (counts["n_in"], counts["n_accepted"], counts["rejected.duplicate"]) == (163, 160, 3)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no such file"),
        ("", "holds no row"),
        (rows(30), "30"),  # 9 gold rows
        ("\n".join([*rows(100).splitlines(), *["not json"] * 9]), "more than 5%"),
    ],
)
def test_bad_rows_stop_before_anything_is_made(home: Path, text: str | None, why: str) -> None:
    if text is None:
        (home / "rows.jsonl").unlink()
    else:
        (home / "rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=why):
        run(home)
    assert not list((home / "work" / "objects").rglob("artifact.json"))


def test_everything_that_is_wrong_is_said_at_once_and_nothing_runs(home: Path) -> None:
    """No rows, and a model without a tokenizer: both named, exit 2, no run recorded."""
    (home / "rows.jsonl").unlink()
    (home / "model" / "tokenizer.json").unlink()
    with pytest.raises(InputError) as refused:
        run(home)
    assert {problem.where.split(":")[0] for problem in refused.value.problems} == {"data.path", "model"}
    store = Store(home / "work")
    assert store.runs() == []
    store.close()


@pytest.mark.slow
def test_kill_9_in_training_and_the_same_command_goes_on(home: Path) -> None:
    """Killed after the first checkpoint: the second command skips what was done, goes on from the checkpoint, and reads nothing half-written."""
    edit(home, "max_steps: 6, batch_size: 8, validations: 2, checkpoints: 3", "max_steps: 400, batch_size: 8, validations: 0, checkpoints: 100")
    command = [sys.executable, "-m", "planish", "train", str(home / "recipe.yaml"), "--workspace", str(home / "work")]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((home / "work").glob("work/*/step-*")):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "prepare: unchanged" in again.stderr
    store = Store(home / "work")
    [resumed] = [event for event in store.events() if event.type is EventType.TRAIN_RESUMED]
    assert resumed.body["step"] >= 4
    folder = store.stages(store.runs()[0]["id"])["train"]["artifact"]
    steps = [json.loads(line)["step"] for line in (store.path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == list(range(1, 401))
    assert store.runs()[1]["status"] == "interrupted"  # the next holder of the workspace says what a killed run could not
    store.close()


def test_one_broken_line_is_set_aside_and_counted(home: Path) -> None:
    with (home / "rows.jsonl").open("a", encoding="utf-8") as out:
        out.write('{"text": "no label", "shop": "s1"}\n{broken\n{"text": "x", "label": "ugly", "shop": "s1"}\n')
    folder = run(home, "prepare").stages["prepare"].folder
    assert folder is not None
    counts = dataset.read(folder).manifest.counts
    assert counts["n_in"] == counts["n_accepted"] + counts["n_rejected"] == 166
    assert {code: counts[f"rejected.{code}"] for code in ("missing_field", "bad_json", "label_unknown", "duplicate")} == {
        "missing_field": 1,
        "bad_json": 1,
        "label_unknown": 1,
        "duplicate": 3,
    }


def test_ctrl_c_says_how_to_go_on(home: Path) -> None:
    edit(home, "max_steps: 6, batch_size: 8, validations: 2, checkpoints: 3", "max_steps: 4000, batch_size: 8, validations: 0, checkpoints: 1000")
    command = [sys.executable, "-m", "planish", "train", str(home / "recipe.yaml"), "--workspace", str(home / "work")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((home / "work").glob("work/*/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "give the same command again" in said
    assert "Traceback" not in said
    store = Store(home / "work")
    assert store.runs()[0]["status"] == "interrupted"
    store.close()


def test_a_port_in_use_is_refused_by_name(home: Path) -> None:
    port = Recipe.load(home / "recipe.yaml").serve.port  # type: ignore[union-attr]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(InputError, match=f"serve.port {port}"):
            run(home, unproven=True)


def test_the_command_line_shows_what_happened(home: Path) -> None:
    workspace = ["--workspace", str(home / "work")]
    runner = CliRunner()
    gate = runner.invoke(app, ["gate", str(home / "recipe.yaml"), *workspace])
    assert gate.exit_code == 3
    assert "majority" in gate.output
    assert "verdict: keep_baseline" in gate.output
    listed = json.loads(runner.invoke(app, ["runs", "--json", *workspace]).stdout)
    assert listed[0]["exit_code"] == 3
    assert "stage.finished" in runner.invoke(app, ["events", "last", *workspace]).output
    assert "the chain holds" in runner.invoke(app, ["events", "--verify", *workspace]).output
    assert "lora" in runner.invoke(app, ["show", "last", *workspace]).output
    assert json.loads(runner.invoke(app, ["check", str(home / "recipe.yaml"), "--json"]).stdout)["ok"]
    assert "alpha: int | None = None" in runner.invoke(app, ["ls", "adapters"]).output
    assert "python" in runner.invoke(app, ["doctor"]).output
