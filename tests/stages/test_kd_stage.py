"""Distillation through the stages: captured, trained on, and refused where the capture is not of these rows."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import make_tiny

from planish import capture as capturing
from planish.capture import How
from planish.data.capture_file import CAPTURE, MANIFEST, about_of, rows_of, write_line
from planish.errors import InputError
from planish.model.curve import Step
from planish.recipe import Recipe
from planish.stages import _beside, _files, _known_rows, _ready, _tuning, train
from planish.stages._ready import Job

ROWS = [{"messages": [{"role": "user", "content": f"the phone {n}"}, {"role": "assistant", "content": f"good sound {n}"}]} for n in range(90)]
TRAIN = "{objective: {kd: {capture: held, ce_weight: 0.1, kd_weight: 0.9}}, adapter: full, learning_rate: 1e-2, max_steps: 20, batch_size: 8, precision: fp32, validations: 2}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher, a recipe, and the teacher's word on its rows."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=32)
    make_tiny(folder / "teacher", hidden=48)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    text = f"recipe: 1\nmodel: model\ndata: {{path: rows.jsonl, task: chat, split: {{gold: 0.5, validation: 0.1}}, checks: []}}\ntrain: [{TRAIN}]\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    capturing.capture(Recipe.load(folder / "recipe.yaml"), How(teacher="teacher", precision="fp32", mass=1.0), folder / "held", workspace=folder / "space")
    return folder


def job(home: Path, recipe: str = "recipe.yaml") -> Job:
    """The recipe's only entry over its prepared rows."""
    read = Recipe.load(home / recipe)
    section = _files.placed(read, read.train[0])
    data = capturing.prepared(read, home / "space")
    return Job(section.model_dump(mode="json"), str(home / "model"), None, str(data.folder), str(home / "work"), str(home / "out"), str(home / "tokens"))


def test_a_student_comes_nearer_to_its_teacher(home: Path) -> None:
    """The recipe's relative path is found, every token has a teacher, the teacher's term falls, and the weighted sum of both is the loss."""
    lines: list[Step] = []

    class Heard:
        def event(self, type: object, body: dict[str, object], severity: str = "info") -> None:
            """Not asked about here."""

        def say(self, text: str) -> None:
            """Not asked about here."""

        def begin(self, done: int, total: int) -> None:
            """Not asked about here."""

        def step(self, line: Step) -> None:
            lines.append(line)

    _tuning.tune(job(home), Heard())
    first, last = lines[0], lines[-1]
    assert first.metrics["coverage"] == pytest.approx(1)
    assert first.loss == pytest.approx(0.1 * first.metrics["ce"] + 0.9 * first.metrics["kd"], rel=1e-4)
    assert last.metrics["kd"] < 0.95 * first.metrics["kd"]
    assert {"ce", "entropy"} <= last.metrics.keys()


def test_what_was_captured_is_part_of_what_a_run_depends_on(home: Path) -> None:
    """R-10: the same recipe over another capture is trained anew."""
    recipe = Recipe.load(home / "recipe.yaml")
    before = train.options(recipe)
    assert before == train.options(recipe)
    kept = (home / "held" / CAPTURE).read_bytes()
    (home / "held" / CAPTURE).write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
    try:
        assert train.options(recipe) != before
    finally:
        (home / "held" / CAPTURE).write_bytes(kept)


def test_a_capture_beside_another_gold_set_is_refused(home: Path) -> None:
    """R-4: rows that were training rows of another split may be gold of this one."""
    text = (home / "recipe.yaml").read_text(encoding="utf-8").replace("gold: 0.5", "gold: 0.5, seed: 7")
    (home / "other.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="another gold set"):
        _ready.read_rows(job(home, "other.yaml"))


def test_answers_that_the_teacher_never_wrote_are_refused_before_anything_is_trained(home: Path) -> None:
    """S1: of its own answers a capture must have 95 % of the training rows, as of those that it read: it has 8 here, and the others would be left out one by one."""
    (home / "few.yaml").write_text((home / "recipe.yaml").read_text(encoding="utf-8").replace("held", "few"), encoding="utf-8")
    how = How(teacher="teacher", precision="fp32", mass=1.0, answers="teacher", max_new_tokens=4, rows=8)
    capturing.capture(Recipe.load(home / "few.yaml"), how, home / "few", workspace=home / "space")
    rows = len(list(capturing.prepared(Recipe.load(home / "few.yaml"), home / "space").rows("train")))
    with pytest.raises(InputError, match=f"own answers to 8 of {rows} training rows"):
        _ready.read_rows(job(home, "few.yaml"))
    found = _known_rows.refusals(Recipe.load(home / "few.yaml"), capturing.prepared(Recipe.load(home / "few.yaml"), home / "space").folder)
    assert [one.where for one in found] == ["train[0].objective.kd.capture"]


def test_rows_that_are_left_out_are_said_with_their_reason(home: Path) -> None:
    """R-2: answers that the teacher's limit cut are left out of training and of validation, and the run says how many and why."""
    (home / "cut.yaml").write_text(
        (home / "recipe.yaml").read_text(encoding="utf-8").replace("held", "cut").replace("max_steps: 20", "max_steps: 4"), encoding="utf-8"
    )
    recipe = Recipe.load(home / "cut.yaml")
    capturing.capture(recipe, How(teacher="teacher", precision="fp32", mass=1.0, answers="teacher", max_new_tokens=4), home / "cut", workspace=home / "space")
    about = about_of(home / "cut")
    lines = [replace(row, finish_reason="length" if place % 3 == 0 else "stop") for place, row in enumerate(rows_of(home / "cut", about))]
    (home / "cut" / CAPTURE).write_text("".join(write_line(row, about) + "\n" for row in lines), encoding="utf-8")
    (home / "cut" / "capture.safetensors").unlink()
    data = capturing.prepared(recipe, home / "space")
    ids = {split: {row.id for row in data.rows(split)} for split in ("train", "validation")}
    cut = {split: sum(row.finish_reason == "length" and row.id in ids[split] for row in lines) for split in ids}
    notes: list[str] = []

    class Heard:
        def event(self, type: object, body: dict[str, object], severity: str = "info") -> None:
            if severity == "warning":
                notes.append(str(body["what"]))

        def say(self, text: str) -> None:
            """Not asked about here."""

        def begin(self, done: int, total: int) -> None:
            """Not asked about here."""

        def step(self, line: Step) -> None:
            """Not asked about here."""

    _tuning.tune(replace(job(home, "cut.yaml"), work=str(home / "work-cut"), out=str(home / "out-cut")), Heard())
    for split, of in (("train", "training"), ("validation", "validation")):
        assert cut[split] > 0
        assert f"{cut[split]} {of} rows are left out: {cut[split]} answer_truncated (the teacher's answer was cut at its length limit)" in notes


@pytest.mark.parametrize(("name", "why"), [("tokenizer", "another tokenizer"), ("template", "another chat template")])
def test_a_capture_of_another_chat_is_refused(home: Path, name: str, why: str) -> None:
    """S1: its token ids would mean other words, or other turns."""
    shutil.copytree(home / "held", home / f"of-{name}")
    about = home / f"of-{name}" / MANIFEST
    told = json.loads(about.read_text(encoding="utf-8"))
    whole = (home / "held" / CAPTURE).read_text(encoding="utf-8").replace(told[name], "0" * 64)
    (home / f"of-{name}" / CAPTURE).write_text(whole, encoding="utf-8")
    about.write_text(json.dumps(told | {name: "0" * 64}), encoding="utf-8")
    (home / f"of-{name}" / "capture.safetensors").unlink()
    (home / f"{name}.yaml").write_text((home / "recipe.yaml").read_text(encoding="utf-8").replace("held", f"of-{name}"), encoding="utf-8")
    with pytest.raises(InputError, match=why):
        _ready.read_rows(job(home, f"{name}.yaml"))
    with pytest.raises(InputError, match=rf"train\[0\].objective.kd.capture.*{why}"):  # and before a baseline has run
        train.preflight(Recipe.load(home / f"{name}.yaml"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("temperature: 3", r"train\[0\]\.objective\.kd\.temperature: 3 was not captured"),
        ("tail: sampled", r"train\[0\]\.objective\.kd\.tail: the capture holds no draws"),
        ("ce_weight: 0, kd_weight: 0", "are both 0"),
    ],
)
def test_s2_options_that_the_capture_cannot_give_are_refused_before_anything_runs(home: Path, options: str, why: str) -> None:
    """S2 Bad: before a baseline has run, and beside a capture that is not there too, where they mean nothing whatever it holds."""
    text = (home / "recipe.yaml").read_text(encoding="utf-8").replace("ce_weight: 0.1, kd_weight: 0.9", options)
    (home / "options.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=why):
        train.preflight(Recipe.load(home / "options.yaml"), None)  # type: ignore[arg-type]
    (home / "options.yaml").write_text(text.replace("held", "nowhere"), encoding="utf-8")
    found = _beside.refusals_of_entry(Recipe.load(home / "options.yaml"), 0, home / "model")
    assert [problem.why for problem in found] == (["ce_weight and kd_weight are both 0: nothing would be learned"] if "both" in why else [])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--temperature", "2", "--samples", "4"), r"(?s)--samples: .*--temperature: .*a capture has --temperatures"),
        (("--text", "new.jsonl", "--tail-samples", "4", "--align"), r"(?s)--align: .*--tail-samples: is of what a capture keeps"),
    ],
)
def test_options_that_would_be_left_aside_are_refused(home: Path, tmp_path: Path, given: tuple[str, ...], why: str) -> None:
    """Those of --text without it and those of a capture with it, before the recipe is read."""
    from typer.testing import CliRunner

    from planish.cli import app

    done = CliRunner().invoke(app, ["capture", str(tmp_path / "nowhere.yaml"), "--teacher", "teacher", *given])
    assert isinstance(done.exception, InputError)
    assert re.search(why, str(done.exception))


def test_a_missing_capture_is_refused(home: Path) -> None:
    (home / "none.yaml").write_text((home / "recipe.yaml").read_text(encoding="utf-8").replace("held", "nowhere"), encoding="utf-8")
    with pytest.raises(InputError, match="planish capture"):
        train.options(Recipe.load(home / "none.yaml"))


def test_the_verbs_print_json_and_say_no_with_exit_3(home: Path, tmp_path: Path) -> None:
    """`planish capture` goes on with what is there; `planish retained` writes distill_report.json and exits 3 where the control is as good."""
    from typer.testing import CliRunner

    from planish.cli import app
    from planish.scores import EvalReport, Metric, Score

    asked = [
        "capture",
        str(home / "recipe.yaml"),
        "--teacher",
        "teacher",
        "--out",
        str(home / "held"),
        "--mass",
        "1",
        "--precision",
        "fp32",
        "--workspace",
        str(home / "space"),
        "--json",
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert (told["new"], told["failed"], told["covered"]) == (0, 0, 1.0)
    scores = [Score(id=str(n), answer="", parsed=None, target="", value=float(n % 2)) for n in range(60)]
    for name in ("student", "teacher", "sft"):
        report = EvalReport(system=name, gold="g", metrics={"exact": Metric(name="exact", value=0.5, n=60)}, scores=scores)
        (tmp_path / f"{name}.json").write_text(report.model_dump_json(), encoding="utf-8")
    paths = [str(tmp_path / f"{name}.json") for name in ("student", "teacher", "sft")]
    said = CliRunner().invoke(app, ["retained", *paths[:2], "--control", paths[2], "--metric", "exact", "--out", str(tmp_path / "distill_report.json")])
    assert said.exit_code == 3, said.output
    written = json.loads((tmp_path / "distill_report.json").read_text(encoding="utf-8"))
    assert {"ce", "kd", "coverage", "retained", "ci"} <= written.keys()
    assert "as good" in written["why"]
