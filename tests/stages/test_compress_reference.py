"""What a file is held against: the tuned model computed as files are, in fp32, whatever format it was evaluated in (MISSION Z6)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny

from planish import pipeline
from planish.model.chat import Chat
from planish.recipe import Recipe
from planish.report.findings import gather
from planish.report.package import package_lines
from planish.scores import EvalReport
from planish.stages._context import read_json, read_reports

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [a, b], split: {gold: 0.5}}
baseline: [majority]
train:
  - {objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-4, max_steps: 1, batch_size: 8, validations: 1, checkpoints: 1, precision: bf16}
evaluate: {scorers: [label], general: []}
gate: ["label.accuracy >= 0"]
compress: {export: [safetensors], gate: ["quality_retained >= 0.9"]}
"""


def _all_but_tied(model: Path) -> None:
    """Give both labels nearly one embedding, so that which is likelier is a matter of the last digits."""
    chat = Chat.load(model)
    [one], [other] = (chat.encode(label) for label in "ab")
    weights = load_file(model / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    embedding[other] = embedding[one] * (1 + 1e-3 * torch.randn(embedding.shape[1], generator=torch.Generator().manual_seed(0)))
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def test_z6_an_exact_copy_keeps_all_that_bf16_had_rounded_away(tmp_path: Path) -> None:
    """Labels that are all but ties to the model, some of which bf16 turns. The file of the same weights is no worse than they are: it keeps exactly what they score in fp32."""
    _all_but_tied(make_tiny(tmp_path / "model", hidden=64))
    words = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(400)]
    lines = [{"text": word[:24], "label": "ab"[int(word[-1], 16) % 2]} for word in words]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    outcome = pipeline.run(Recipe.load(tmp_path / "recipe.yaml"), workspace=tmp_path / "work", until="compress", unproven=True)
    evaluated, compressed = outcome.stages["evaluate"].folder, outcome.stages["compress"].folder
    assert evaluated is not None
    assert compressed is not None
    rounded = read_reports(evaluated)["lora"]
    [exact] = read_reports(compressed).values()
    assert [score.answer for score in rounded.scores] != [score.answer for score in exact.scores]

    told = read_json(compressed / "compress_report.json")
    [file] = told["files"]
    assert file["figures"]["quality_retained"]["value"] == 1
    assert file["passed"]
    assert EvalReport.model_validate(read_json(compressed / "reference.json")).scores == exact.scores
    assert told["reference"]["value"] == exact.metrics["label.macro_f1"].value != rounded.metrics["label.macro_f1"].value
    [line] = [line for line in package_lines(gather(tmp_path / "work", outcome.run_id)) if "held against" in line]
    assert f"label.macro_f1 {exact.metrics['label.macro_f1'].value:.3f} [" in line
