"""Entries of compress: what has no runtime stays unproven, smaller and merged models become files of the package, each held against the tuned model (MISSION Z6, Z9, Z10, W6)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny
from tests.transforms.conftest import tuned
from typer.testing import CliRunner

from planish import pipeline, shelf
from planish.cli import app
from planish.data import dataset
from planish.engines import llamacpp
from planish.errors import InputError, MissingExtra, Problem
from planish.model import calibration_text
from planish.model.calibration_pass import Calibration
from planish.model.chat import Chat
from planish.pipeline import RunOutcome
from planish.recipe import Recipe
from planish.report import findings, package, terminal
from planish.stages import compress
from planish.stages._context import read_json, read_reports
from planish.stages._package import FIGURES
from planish.stages._prune import Removal
from planish.stages._variants import schedule
from planish.store import Store

TRAIN = "{objective: sft, adapter: full, learning_rate: 3e-3, max_steps: 80, batch_size: 8, validations: 1, checkpoints: 1, precision: fp32}"
RECIPE = """\
recipe: 1
model: model
data: {{path: rows.jsonl, labels: [good, bad], split: {{gold: 0.3}}}}
baseline: [majority]
train:
  - {train}
evaluate: {{scorers: [label], general: {general}}}
gate: ["label.accuracy >= 0"]
compress: {compress}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, rows, and a workspace in which they are tuned once for every test."""
    folder = tmp_path_factory.mktemp("entries")
    make_tiny(folder / "model", hidden=64, layers=3)
    make_tiny(folder / "wider", hidden=96, layers=3)
    tuned(folder / "model", folder / "sister", 1)
    words = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(120)]
    lines = [{"text": f"phone {word[:12]} is {('good', 'bad')[index % 2]}", "label": ("good", "bad")[index % 2]} for index, word in enumerate(words)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def compressed(home: Path, compress: str, *, general: str = "[]", until: str = "compress") -> RunOutcome:
    """The label stands in the text, so that even a tiny model learns it and the gate before compress says ship."""
    (home / "recipe.yaml").write_text(RECIPE.format(train=TRAIN, compress=compress, general=general), encoding="utf-8")
    return pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until=until)


def told(outcome: RunOutcome) -> tuple[Path, dict[str, Any]]:
    folder = outcome.stages["compress"].folder
    assert folder is not None
    return folder, read_json(folder / "compress_report.json")


@pytest.mark.slow
def test_z6_bad_a_file_without_its_runtime_is_unproven_and_cannot_ship(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Z6 Bad: the file is made, never run on gold, and refused whatever the gate asks; report, terminal line, event and exit code say so, with what to install."""

    def absent(module: str, *, extra: str) -> Any:
        raise MissingExtra(Problem(module, "is not installed", f'pip install "planish[{extra}]"'))

    monkeypatch.setattr(llamacpp, "require", absent)
    outcome = compressed(home, '{export: [{gguf: {quant: F16}}], gate: ["size_ratio < 9"]}', until="observe")
    folder, report = told(outcome)
    [file] = report["files"]
    assert (outcome.exit_code, report["passed"], file["passed"]) == (3, False, False)
    assert (folder / "model-F16.gguf").is_file()
    assert file["unproven"] == {"why": "xllamacpp is not installed, so it was never run on the gold set", "fix": 'pip install "planish[gguf]"'}
    assert file["figures"].keys() >= {"bytes", "kl", "top1_agreement"}  # its weights can be read without its runtime
    assert not file["figures"].keys() & {"quality_retained", "tokens_per_second"}
    assert file["figures"].keys() <= {*FIGURES}
    assert read_reports(folder) == {}
    found = findings.gather(home / "work", outcome.run_id)
    for text in ("\n".join(package.package_lines(found)), str(package.package(found)), report["sentence"], "\n".join(terminal._lines(found))):
        assert "model-F16.gguf is UNPROVEN and cannot ship: xllamacpp is not installed" in text
        assert 'pip install "planish[gguf]"' in text
    [event] = [event for event in Store(home / "work").events(outcome.run_id) if event.type == "gate.refused" and event.subject == "compress"]
    assert event.body["files"] == ["model-F16.gguf"]


@pytest.mark.slow
def test_z9_z10_a_pruned_entry_is_scored_recovered_and_held_against_quantisation(home: Path) -> None:
    """A layer and 64 of 192 channels go in two steps, each recovered from what the uncut model says; the file is compared with the uncut one of its size."""
    recover = "{objective: {kd: {capture: unpruned}}, adapter: full, learning_rate: 1e-3, max_steps: 2, batch_size: 8, validations: 1, checkpoints: 1, precision: fp32}"
    entry = f"{{layers: 1, channels: 64, by: gradient, rows: 16, steps: 2, recover: {recover}, export: [{{gguf: {{quant: F16}}}}]}}"
    folder, report = told(compressed(home, f'{{export: [{{gguf: {{quant: Q8_0}}}}], prune: [{entry}], gate: ["size_ratio < 9"]}}'))
    assert [file["file"] for file in report["files"]] == ["model-Q8_0.gguf", "pruned-1/model-F16.gguf"]
    [variant] = report["variants"]
    assert [step["removal"]["channels"] for step in variant["steps"]] == [32, 32]
    assert [step["removal"]["layers"] for step in variant["steps"]] == [0, 1]
    assert variant["steps"][0]["before"] > variant["steps"][0]["after"] == variant["steps"][1]["before"] > variant["steps"][1]["after"]
    assert {"parent", "pruned", "recovered", "damage", "regained"} <= variant["recovery"].keys()
    said = "taken out: 1 layers by gradient, 64 channels of every layer by gradient. Then trained again."
    assert said in (folder / "pruned-1" / "model-F16.gguf.README.md").read_text(encoding="utf-8")
    assert "taken out" not in (folder / "model-Q8_0.gguf.README.md").read_text(encoding="utf-8")
    [equal] = report["equal_size"]
    assert (equal["file"], equal["rival"]) == ("pruned-1/model-F16.gguf", "model-Q8_0.gguf")
    assert equal["sentence"] in report["sentence"]
    assert read_reports(folder).keys() == {"model-Q8_0.gguf", "pruned-1/model-F16.gguf"}
    pruned = report["files"][1]
    assert pruned["figures"].keys() == {*FIGURES}
    assert pruned["figures"]["kl"]["value"] > 10 * report["files"][0]["figures"]["kl"]["value"]  # against the tuned model, not against itself
    assert pruned["source_bytes"] == report["files"][0]["source_bytes"]


@pytest.mark.slow
def test_z11_a_trimmed_vocabulary_is_asked_in_its_own_ids(home: Path) -> None:
    """The gold prompts are written by the trimmed tokenizer; what has other tokens is not compared token by token, and a rule on that fails as not measured."""
    _, report = told(compressed(home, '{export: [{gguf: {quant: F16}}], prune: [{vocabulary: 400}], gate: ["kl < 1"]}'))
    whole, cut = report["files"]
    assert whole["passed"]
    assert not cut["passed"]
    assert "kl was not measured" in cut["rules"][0]["why"]
    assert cut["value"] == whole["value"]  # exact on kept tokens


@pytest.mark.slow
def test_z10_a_model_with_a_trimmed_vocabulary_learns_from_the_uncut_one_in_its_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trimming is exact on kept tokens, so the uncut model with the trimmed vocabulary alone is asked: its ids are those of the cut one, and `target` counts both removals."""
    monkeypatch.setattr(Store, "forget_work", lambda *_: None)  # what was made on the way is looked at
    recover = "{objective: {kd: {capture: unpruned}}, adapter: full, learning_rate: 1e-3, max_steps: 2, batch_size: 8, validations: 1, checkpoints: 1, precision: fp32}"
    _, report = told(compressed(home, f"{{export: [{{gguf: {{quant: F16}}}}], prune: [{{vocabulary: 300, target: 90%, recover: {recover}}}]}}"))
    [variant] = report["variants"]
    [step] = variant["steps"]
    assert step["removal"]["vocabulary"] == 300
    assert step["removal"]["channels"] == 32  # fewer would do, and leave no whole block
    assert 0.1 <= step["share"] < 0.18
    assert {"damage", "regained", "retained"} <= variant["recovery"].keys()
    [spoken] = [path for path in (home / "work").rglob("uncut") if path.is_dir()]
    assert (spoken / "vocabulary_map.json").read_bytes() == (spoken.parent / "1" / "cut" / "vocabulary_map.json").read_bytes()
    asked = read_json(spoken.parent / "1" / "capture" / "manifest.json")
    assert asked["tokenizer"] == Chat.load(spoken).tokenizer_hash


@pytest.mark.slow
def test_w6_a_merged_entry_says_which_skill_survived(home: Path) -> None:
    """The tuned model and another of its base by TIES: a file of it, and the table of merge, parents and base on this gold set, on the sister's own, and on general text."""
    other = "recipe: 1\nmodel: model\ndata: {path: other.jsonl, labels: [good, bad], split: {gold: 0.5}}\nevaluate: {scorers: [label]}\n"
    lines = [{"text": f"screen {hashlib.sha256(str(index).encode()).hexdigest()[:9]}", "label": ("good", "bad")[index % 3 == 0]} for index in range(60)]
    (home / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (home / "sister.yaml").write_text(other, encoding="utf-8")
    compress = '{export: [{gguf: {quant: F16}}], merge: [{models: [{path: sister, task: sister.yaml}], method: ties, density: 0.5}], gate: ["size_ratio < 9"]}'
    outcome = compressed(home, compress, general="[chat_exchanges]")
    folder, report = told(outcome)
    assert [file["file"] for file in report["files"]] == ["model-F16.gguf", "merged-1/model-F16.gguf"]
    [variant] = report["variants"]
    table = {line["task"]: line for line in variant["verdict"]["table"]}
    assert {name: line["owner"] for name, line in table.items()} == {"this task": "tuned", "task of sister": "sister", "general ability": None}
    for line in table.values():
        assert line["parents"].keys() == {"tuned", "sister", "base"}
    assert table["task of sister"]["n"] == 30
    assert table["general ability"]["against"] == "base"
    assert "Against the base: " in variant["verdict"]["sentence"]
    assert outcome.stages["evaluate"].folder is not None
    [tuned_report] = read_reports(outcome.stages["evaluate"].folder).values()
    assert table["this task"]["parents"]["tuned"] == tuned_report.metrics[table["this task"]["metric"]].value
    shown = "\n".join(package.package_lines(findings.gather(home / "work", outcome.run_id)))
    assert "  task of sister (" in shown
    assert "survive" in shown
    assert report["equal_size"] == []
    assert report["files"][1]["figures"]["kl"]["value"] > 0.001
    assert (folder / "merged-1" / "model-F16.gguf").is_file()


@pytest.mark.parametrize(
    ("compress", "why"),
    [
        ("{prune: [{layers: 1}]}", "held against quantisation at equal size"),
        ("{export: [gguf], prune: [{layers: 1, recover: {objective: sft, adapter: prefix}}]}", "stays beside its base"),
        ("{export: [gguf], prune: [{channels: 3, by: influence}]}", "influence scores layers alone"),
        ("{export: [gguf], prune: [{target: 50%, latency: 3 ms}]}", "keep one"),
        ("{export: [gguf], prune: [{by: gradient}]}", "nothing would be removed"),
        ("{merge: [{models: [sister]}]}", "no file would be made"),
        ("{export: [gguf], merge: [{models: [nowhere]}]}", "is no folder"),
        ("{export: [gguf], merge: [{models: [{path: sister, task: nowhere.yaml}]}]}", "the task nowhere.yaml is no file"),
        ("{export: [gguf], merge: [{models: [{path: sister, task: rows.jsonl}]}]}", "is not YAML"),
        ("{export: [gguf], merge: [{models: [sister], method: tise}]}", 'did you mean "ties"'),
        ("{export: [gguf], merge: [{models: [sister], t: 0.5}]}", "ties has no t"),
        ("{export: [gguf], merge: [{models: [sister], density: 1.5}]}", r"compress.merge\[0\].density: 1.5 is out of range"),
        ("{export: [gguf], merge: [{models: [sister], density: [0.5, {value: 0}]}]}", "density"),
        ("{export: [gguf], merge: [{models: [{path: sister, weight: .nan}]}]}", "nan is out of range"),
        ("{export: [gguf], merge: [{models: [wider], method: linear}]}", "merge models of one architecture"),
        ("{export: [gguf], prune: [{layers: 3}]}", r"compress.prune\[0\].layers: 3 of 3 cannot be removed"),
        ("{export: [gguf], prune: [{layers: 1, steps: 4}]}", "would remove nothing"),
        ("{export: [gguf], prune: [{latency: 1 ms, layers: 9}]}", "9 of 3 cannot be removed"),
        ("{export: [gguf], prune: [{target: 1K}]}", r"compress.prune\[0\].target: with all channels gone but one"),
        ("{export: [gguf], prune: [{target: 200%}]}", "is no less"),
        ("{export: [gguf], prune: [{target: small}]}", "is no size"),
        ('{export: [gguf], gate: ["quality_retaned >= 0.9"]}', 'did you mean "quality_retained"'),
        ('{export: [gguf], gate: ["exact.exact >= 0.5"]}', "exact.exact is measured of no file"),
        ('{export: [gguf], gate: ["label.accuracy >= best_baseline.label.accuracy"]}', "best_baseline.label.accuracy is measured of no file"),
        ('{export: [gguf], gate: ["worst_slice(label).label.accuracy >= 0.6"]}', "files are not scored by slices"),
    ],
)
def test_what_an_entry_cannot_have_is_refused_before_anything_runs(home: Path, compress: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        compressed(home, compress)


def test_a_gate_on_what_is_measured_is_let_through(home: Path) -> None:
    """Every figure of a file, a metric of the scorer, one of a label, and that of the tuned model."""
    rules = ", ".join(f'"{name} < 9"' for name in (*FIGURES, "label.accuracy", "label.f1.good", "base.label.macro_f1"))
    recipe = RECIPE.format(train=TRAIN, compress=f"{{export: [gguf], gate: [{rules}]}}", general="[]")
    (home / "gated.yaml").write_text(recipe, encoding="utf-8")
    compress.preflight(Recipe.load(home / "gated.yaml"), Store(home / "work"))


def test_a_removal_in_steps_adds_up() -> None:
    """3 layers and 10 channels in 4 steps: 0, 1, 1, 1 and 2, 3, 2, 3; the vocabulary at once; more steps than units of any kind remove nothing in one, which is refused."""
    steps = schedule(Removal(layers=3, channels=10, vocabulary=99), 4)
    assert [step.layers for step in steps] == [0, 1, 1, 1]
    assert [step.channels for step in steps] == [2, 3, 2, 3]
    assert [step.vocabulary for step in steps] == [99, None, None, None]
    with pytest.raises(InputError, match="would remove nothing"):
        schedule(Removal(layers=3), 4)


@pytest.mark.slow
def test_a_dry_run_says_size_time_and_memory_of_everything_and_writes_no_model(home: Path) -> None:
    """Sizes are those of the files that a run then writes; the pruned model's parameters are counted, its files are in proportion."""
    entry = "{layers: 1, recover: {objective: sft, adapter: full, max_steps: 5}, export: [{gguf: {quant: F16}}]}"
    compress = f"{{export: [{{gguf: {{quant: Q4_K_M}}}}, {{gguf: {{quant: F16}}}}, rtn, gptq], prune: [{entry}], merge: [{{models: [sister], export: [rtn]}}]}}"
    (home / "dry.yaml").write_text(RECIPE.format(train=TRAIN, compress=compress, general="[]"), encoding="utf-8")
    before = {path for path in home.rglob("*.safetensors")}
    done = CliRunner().invoke(app, ["compress", str(home / "dry.yaml"), "--workspace", str(home / "dry"), "--dry-run", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {path for path in home.rglob("*.safetensors")} == before
    assert not list((home / "dry").rglob("*.gguf"))
    sizes = {one["file"]: one["bytes"] for one in found["files"]}
    text = calibration_text.sequences(dataset.read(next((home / "dry" / "objects").rglob("manifest.json")).parent), Chat.load(home / "model")).sequences
    calibrated = Calibration(home / "model", None, text, home / "grams")
    for use, file in ((("gguf", {"quant": "Q4_K_M"}), "model-Q4_K_M.gguf"), (("gguf", {"quant": "F16"}), "model-F16.gguf"), (("gptq", {}), "model-GPTQ-4bit")):
        made = shelf.call("exporters", use[0], "export", use[1])(home / "model", home / "made", None, calibrated)
        assert sizes[file] == pytest.approx(made.bytes, abs=64), file  # of alignment between tensors
    [cut], [merged] = found["pruned"], found["merged"]
    assert cut["forecast"]["after"] < cut["forecast"]["before"]
    assert cut["files"][0]["bytes"] == round(sizes["model-F16.gguf"] * cut["forecast"]["after"] / cut["forecast"]["before"])
    assert cut["recovery_memory"] > 0
    assert cut["recovery_seconds"] > 0
    assert merged["forecast"]["bytes"] == 4 * cut["forecast"]["before"]  # every weight in fp32, as the base has it
    assert merged["files"][0]["bytes"] == sizes["model-RTN-4bit"]
    assert found["seconds"] >= sum(one["seconds"] for one in found["files"])
    assert found["memory"] >= 2 * 4 * cut["forecast"]["before"]
    shown = CliRunner().invoke(app, ["compress", str(home / "dry.yaml"), "--workspace", str(home / "dry"), "--dry-run"], catch_exceptions=False)
    assert "model-Q4_K_M.gguf: " in shown.stdout
    assert "beside the libraries (estimated" in shown.stdout
