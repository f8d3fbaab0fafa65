"""A package with ONNX folders: each scored by onnxruntime on the gold set and held against its source there (MISSION Z5, Z6)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.conftest import make_tiny

from planish import pipeline
from planish.recipe import Recipe
from planish.stages._context import read_json, read_reports

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.3}}
baseline: [majority]
train:
  - {objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-2, max_steps: 4, batch_size: 8, validations: 1, checkpoints: 1, precision: fp32}
evaluate: {scorers: [label], general: []}
gate: ["label.accuracy >= 0"]
compress: {export: [{onnx: {precision: fp32}}, {onnx: {precision: int8}}], gate: ["size_ratio < 2", "kl < 5"]}
"""


@pytest.mark.slow
def test_z5_onnx_folders_are_scored_by_onnxruntime(tmp_path: Path) -> None:
    """The LoRA is merged as the weights are read: the fp32 folder says what the tuned model says on every gold row, and its KL to the source is nothing."""
    make_tiny(tmp_path / "model", hidden=64)
    words = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(120)]
    lines = [{"text": f"phone {word[:12]} is {('good', 'bad')[index % 2]}", "label": ("good", "bad")[index % 2]} for index, word in enumerate(words)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    outcome = pipeline.run(Recipe.load(tmp_path / "recipe.yaml"), workspace=tmp_path / "work", until="compress", unproven=True)
    folder, evaluated = outcome.stages["compress"].folder, outcome.stages["evaluate"].folder
    assert folder is not None
    assert evaluated is not None
    files = {entry["file"]: entry for entry in read_json(folder / "compress_report.json")["files"]}
    assert files.keys() == {"model-ONNX-fp32", "model-ONNX-int8"}
    for entry in files.values():
        assert entry["runtime"] == "onnxruntime"
        assert entry["figures"].keys() >= {"bytes", "kl", "top1_agreement", "perplexity", "load_seconds", "tokens_per_second", "memory"}
    assert abs(files["model-ONNX-fp32"]["figures"]["kl"]["value"]) < 1e-5
    assert files["model-ONNX-int8"]["figures"]["kl"]["value"] > files["model-ONNX-fp32"]["figures"]["kl"]["value"]
    assert files["model-ONNX-int8"]["bytes"] < 0.5 * files["model-ONNX-fp32"]["bytes"]
    ours, tuned = read_reports(folder)["model-ONNX-fp32"], read_reports(evaluated)
    assert [score.answer for score in ours.scores] in [[score.answer for score in report.scores] for report in tuned.values()]
