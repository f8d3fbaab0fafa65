"""What a recipe asks of compression and cannot have is refused before anything is trained; what it can have is let through (MISSION R-1, Z2 to Z11, W6)."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.conftest import make_tiny
from tests.transforms.conftest import tuned
from tests.transforms.test_merge_folders import adapter
from typer.testing import CliRunner

from planish import compress as compressing
from planish import merge_tasks, pipeline
from planish import prune as pruning
from planish.cli import app
from planish.errors import InputError, Problem
from planish.model.merging import read_spec
from planish.progress import Silent
from planish.recipe import Recipe
from planish.report import findings, package
from planish.stages import _variants, compress
from planish.stages._context import read_json
from planish.stages._prune import Removal
from planish.store import Store

RECIPE = """\
recipe: 1
model: {model}
data: {{path: rows.jsonl, labels: [good, bad], split: {{gold: 0.3}}}}
baseline: [majority]
train: [{train}]
evaluate: {{scorers: [{scorers}], general: []}}
gate: ["label.accuracy >= 0"]
compress: {compress}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with a sister and an adapter tuned from it, a wider model, the base as a family that no exporter knows, and one whose tokenizer is no byte-pair encoding."""
    folder = tmp_path_factory.mktemp("refusals")
    make_tiny(folder / "model", hidden=64, layers=3)
    tuned(folder / "model", folder / "sister", 1)
    tuned(folder / "model", folder / "foreign", 1, architectures=["OPTForCausalLM"])
    shutil.copytree(folder / "model", folder / "words")
    tokenizer = json.loads((folder / "words" / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"] |= {"type": "WordPiece"}
    (folder / "words" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    make_tiny(folder / "wider", hidden=96, layers=3)
    tuned(folder / "model", folder / "stranger", 7, size=2.0)
    tuned(folder / "stranger", folder / "cousin", 8)
    adapter(folder / "adapter", folder / "model", 1)
    words = [hashlib.sha256(str(index).encode()).hexdigest()[:12] for index in range(120)]
    rows = [{"text": f"phone {word} is {('good', 'bad')[index % 2]}", "label": ("good", "bad")[index % 2]} for index, word in enumerate(words)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_recipe(home: Path, compress_: str, *, model: str = "model", scorers: str = "label", train: str = "{objective: sft, adapter: lora}") -> None:
    (home / "recipe.yaml").write_text(RECIPE.format(compress=compress_, model=model, scorers=scorers, train=train), encoding="utf-8")


def preflight(home: Path, compress_: str, **more: str) -> None:
    write_recipe(home, compress_, **more)
    compress.preflight(Recipe.load(home / "recipe.yaml"), Store(home / "work"))


@pytest.mark.parametrize(
    ("compress_", "why"),
    [
        ("{}", "no file would be made"),
        ("{export: [{gguf: {imatrix: true}}, rtn, {gguf: {imatrix: false}}]}", r"export\[2\]: gguf with quant: Q4_K_M stands at compress.export\[0\] too"),
        ("{export: [{gptq: {group: 64}}, {gptq: {group: 32}}]}", "gptq with bits: 4 stands"),
        ("{export: [nf4, {nf4: {double: false}}]}", "nf4 stands"),
        ("{export: [gguf], prune: [{layers: 1, export: [rtn, rtn]}]}", r"compress.prune\[0\].export\[1\]: rtn with bits: 4"),
        ("{export: [gguf], merge: [{models: [sister], export: [gguf, gguf]}]}", r"compress.merge\[0\].export\[1\]: gguf"),
        ("{export: [gguf], prune: [{latency: fast}]}", r'compress.prune\[0\].latency: "fast" is no latency'),
        ("{export: [gguf], prune: [{vocabulary: 20}]}", r"compress.prune\[0\].vocabulary: keep 20.*must stay, and there are 512"),
        ("{export: [gguf], prune: [{layers: 1, vocabulary: 512}]}", r"compress.prune\[0\].vocabulary: keep 512"),
        ("{export: [gguf], prune: [{layers: 1, steps: 4}]}", r"compress.prune\[0\].steps: 4 steps for 1 units"),
        (
            "{export: [gguf], prune: [{layers: 1, recover: {objective: {kd: {capture: nowhere}}, adapter: full}}]}",
            r"compress.prune\[0\].recover.objective.kd.capture: .*nowhere holds no teacher capture",
        ),
        ("{export: [gptq], prune: [{channels: 3}]}", r"compress.prune\[0\]: gptq: group: no group of 128, 64 or 32 columns divides the widths \[64, 189\]"),
        ("{export: [gguf], prune: [{channels: 3, export: [onnx]}]}", "32 does not divide rows of"),
        ("{export: [{rtn: {group: 7}}]}", r"compress.export\[0\]: rtn: group: no group of 7 columns"),
        ("{export: [{awq: {bits: 3, layout: awq}}]}", "holds 4 bits, not 3"),
        ("{export: [{onnx: {gptq: true}}]}", "is for codes of 4 bits, not int8"),
        ("{export: [{safetensors: {shard_gb: 0}}]}", "must be above 0"),
        ("{export: [gguf], merge: [{models: [{path: sister, weight: -1}], method: linear}]}", r"sum to 0"),
        ("{export: [gguf], merge: [{models: [cousin], base: stranger}]}", r"the tuned model.*(was tuned from|is not of one base with)"),
        ("{export: [gguf], merge: [{models: [model]}]}", "its difference from itself is nothing"),
        ('{export: [gguf], gate: ["label.acuracy >= 0.5"]}', 'did you mean "label.accuracy"'),
        ('{export: [gguf], gate: ["finish.lenght <= 0.1"]}', 'did you mean "finish.length"'),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(home: Path, compress_: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        preflight(home, compress_)


@pytest.mark.parametrize(
    ("compress_", "model", "why"),
    [
        ("{export: [gguf]}", "foreign", "OPTForCausalLM cannot be exported to GGUF"),
        ("{export: [onnx]}", "foreign", "OPTForCausalLM cannot be exported to ONNX"),
        ("{export: [awq]}", "foreign", "OPTForCausalLM is not known to AWQ"),
        ("{export: [gguf]}", "words", "is not byte-level BPE"),
        ("{export: [rtn], prune: [{vocabulary: 400}]}", "words", "only byte-pair ones are trimmed"),
    ],
)
def test_z2_z3_z5_a_model_that_a_format_has_no_place_for_is_refused_before_it_is_tuned(home: Path, compress_: str, model: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        preflight(home, compress_, model=model)


def test_z6_a_rule_on_what_reads_log_probabilities_is_refused_as_no_file_tells_them(home: Path) -> None:
    with pytest.raises(InputError, match="perplexity reads log-probabilities"):
        preflight(home, '{export: [gguf], gate: ["perplexity.bits_per_byte <= base.perplexity.bits_per_byte"]}', scorers="label, perplexity")


@pytest.mark.parametrize(
    "compress_",
    [
        '{export: [gguf], gate: ["finish.length <= base.finish.length + 0.02", "cost.answer_tokens < 20", "label.f1.good >= 0.5"]}',
        "{export: [{gguf: {quant: Q8_0}}, {gguf: {quant: F16}}, rtn, {rtn: {bits: 3}}, gptq, awq, nf4, onnx, {onnx: {precision: fp32}}, safetensors]}",
        "{export: [gptq], prune: [{channels: 3, export: [gguf]}, {channels: 32}, {layers: 1}]}",
        "{export: [gguf], prune: [{target: 80%}, {vocabulary: 400, target: 90%}, {latency: 20 ms}, {vocabulary: 300}]}",
        "{export: [gguf], prune: [{layers: 1, recover: {objective: {kd: {capture: unpruned}}, adapter: full}}]}",
        "{merge: [{models: [sister], export: [gguf]}, {models: [sister], method: linear, export: [gguf]}, {models: [sister], method: slerp, t: 0.3, export: [rtn]}]}",
        "{export: [gguf], merge: [{models: [model], method: linear}, {models: [{path: model, weight: 0}], method: soup}]}",
        "{export: [gguf], merge: [{models: [{path: sister, weight: -1}], method: task_arithmetic, lambda: 0.5}]}",
    ],
)
def test_what_can_be_is_let_through(home: Path, compress_: str) -> None:
    """Among it: a soup with the base itself, a parent that is subtracted, the shares of rows that were cut off, a pruned model in the one format that writes any width."""
    preflight(home, compress_)


def test_z9_an_output_that_is_there_is_refused_before_units_are_scored(home: Path) -> None:
    """Scoring may take hours. Without text `gradient` could not be measured, so that the place is looked at first."""
    with pytest.raises(InputError, match="exists already"):
        pruning.run(home / "model", home / "sister", pruning.Request(Removal(layers=1, by="gradient")), pruning.Text(), Silent())
    with pytest.raises(InputError, match="zeros are none"):
        pruning.run(home / "model", home / "new", pruning.Request(zero="magnitude", rewind=home / "sister"), pruning.Text(), Silent())


def test_z9_channels_that_no_block_of_codes_divides_are_warned_of(home: Path) -> None:
    """192 - 3 = 189 = 5 * 32 + 29: with 29 more, 160 are left."""
    told, _, _ = pruning.run(home / "model", None, pruning.Request(Removal(channels=3)), pruning.Text(), Silent())
    assert isinstance(told, pruning.PruneForecast)
    assert "189 channels are left" in told.warnings[0]
    assert told.warnings[0].endswith("remove 29 more")
    told, _, _ = pruning.run(home / "model", None, pruning.Request(Removal(channels=32)), pruning.Text(), Silent())
    assert isinstance(told, pruning.PruneForecast)
    assert not told.warnings


@pytest.mark.parametrize(("option", "given", "more"), [("--sparsity", "0.3", ["--layers", "1"]), ("--pattern", "2:4", ["--zero", "magnitude"])])
def test_an_option_of_zeroing_that_has_no_part_is_refused(home: Path, option: str, given: str, more: list[str]) -> None:
    with pytest.raises(InputError, match=f"{option}: has no part in"):
        CliRunner().invoke(app, ["prune", str(home / "model"), option, given, *more, "--dry-run"], catch_exceptions=False)


def test_w1_what_cannot_be_merged_is_refused_before_rows_are_prepared_and_models_scored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A greedy soup scores its parents, each for long: a place inside one of them, one that is there, and parents that do not fit are known before."""

    def reached(*_: object) -> None:
        raise AssertionError("rows were prepared")

    monkeypatch.setattr(merge_tasks, "tasks_of", reached)
    soup = read_spec({"method": "soup", "models": [{"path": "model", "task": "recipe.yaml"}, {"path": "sister"}]})
    for out, why in (("sister/soup", "never changed"), ("words", "exists already")):
        with pytest.raises(InputError, match=why):
            merge_tasks.scored(soup, home / out, relative_to=home, progress=Silent(), greedy=True)
    odd = read_spec({"method": "soup", "models": [{"path": "model", "task": "recipe.yaml"}, {"path": "wider"}]})
    with pytest.raises(InputError, match="merge models of one architecture"):
        merge_tasks.scored(odd, home / "soup", relative_to=home, progress=Silent(), greedy=True)


@pytest.mark.slow
def test_w6_a_dry_run_takes_what_a_run_takes(home: Path) -> None:
    """A soup with the base itself, and the two models of a slerp beside a base that one of them, an adapter, needs: the model that is not tuned yet is none of the others."""
    write_recipe(
        home, "{export: [rtn], merge: [{models: [model], method: linear}, {models: [adapter], method: slerp}, {models: [sister], method: slerp, t: 0.2}]}"
    )
    found = compressing.forecast(Recipe.load(home / "recipe.yaml"), home / "dry", Silent())
    assert [one.forecast.tensors for one in found.merged] == [29, 29, 29]


@pytest.mark.slow
def test_z10_a_recovery_that_cannot_be_said_stops_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio to a score of 0 has no value: it is said so in the report, and the files are made and scored all the same."""

    def undefined(*_: object, **__: object) -> None:
        raise InputError(Problem("quality_retained", "label.accuracy of the tuned model is 0, so the ratio is undefined"))

    monkeypatch.setattr(_variants, "recovery", undefined)
    tune = "{objective: sft, adapter: full, max_steps: 2, batch_size: 8, validations: 0, checkpoints: 0, precision: fp32}"
    write_recipe(home, f'{{export: [rtn], prune: [{{layers: 1, recover: {tune}}}], gate: ["size_ratio < 9"]}}', train=tune)
    outcome = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until="compress", unproven=True)
    folder = outcome.stages["compress"].folder
    assert folder is not None
    report = read_json(folder / "compress_report.json")
    assert [file["file"] for file in report["files"]] == ["model-RTN-4bit", "pruned-1/model-RTN-4bit"]
    assert "recovery" not in report["variants"][0]
    shown = "\n".join(package.package_lines(findings.gather(home / "work", outcome.run_id)))
    assert "how much was recovered cannot be said: label.accuracy of the tuned model is 0" in shown
