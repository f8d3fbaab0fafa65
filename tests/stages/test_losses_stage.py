"""What a run keeps of its weak spots: slices.json, memorised.json, losses.json (MISSION E7)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import make_tiny

from planish import pipeline
from planish.data import dataset
from planish.errors import InputError, Problem
from planish.evidence.losses import Losses
from planish.evidence.memorised import Gap
from planish.evidence.slices import Slices
from planish.progress import Silent
from planish.recipe import Recipe
from planish.scorers import label
from planish.scores import EvalReport, Score, Verdict
from planish.stages import _losses
from planish.stages._context import read_json
from planish.stages._gold import Gold, read_gold
from planish.store import Store

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.4}, checks: []}
baseline: [majority]
train: [{objective: sft, adapter: {lora: {r: 2}}, learning_rate: 1e-3, max_steps: 2, batch_size: 4, precision: fp32}]
evaluate: {scorers: [label], general: []}
gate: ["worst_slice(shop).label.accuracy >= 0.99"]
compress: {export: [{gguf: {quant: F16}}]}
"""
SHOPS = ("north", "south", "west")
WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet")


def _home(folder: Path) -> Path:
    """300 rows: three shops, two labels; the texts of the west are about parcels. `note` differs in every row, `empty` is one value."""
    lines = []
    for index in range(300):
        words = " ".join(WORDS[int(digit)] for digit in f"{index:03}")
        text = f"the parcel {words} arrived" if index % 3 == 2 else f"item {words} works fine"
        row = {"text": text, "label": ("good", "bad")[index % 2], "shop": SHOPS[index % 3], "note": f"n{index}", "empty": 1}
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    make_tiny(folder / "model", hidden=32)
    return folder


def _report(gold: Gold, system: str, wrong: set[str]) -> EvalReport:
    """A report on the gold rows with these rows wrong."""
    other = {"good": "bad", "bad": "good"}
    scores = []
    for sample in gold.samples:
        answer = other[sample.target] if sample.id in wrong else sample.target
        scores.append(Score(id=sample.id, answer=answer, parsed=answer, target=sample.target, value=float(answer == sample.target)))
    metrics = {f"label.{name}": metric for name, metric in label.metrics(scores, gold.labels, resamples=200).items()}
    return EvalReport(system=system, gold=gold.sha256, metrics=metrics, scores=scores)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gold]:
    """The prepared data set and its gold set."""
    home = _home(tmp_path_factory.mktemp("losses"))
    outcome = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until="prepare")
    folder = outcome.stages["prepare"].folder
    assert folder is not None
    store = Store(home / "work")
    gold = read_gold(store, outcome.run_id, "evaluate", folder)
    store.close()
    return folder, gold


def test_e7_a_planted_bad_shop_is_the_first_slice_and_its_rows_are_grouped(prepared: tuple[Path, Gold], tmp_path: Path) -> None:
    folder, gold = prepared
    cuts = _losses.cuts(gold, folder)
    assert {"label", "length", "shop", "note", "empty"} <= set(cuts)
    west = [sample.id for sample in gold.samples if cuts["shop"][sample.id] == "west"]
    bad = set(west[: len(west) // 2])
    tuned, plain = _report(gold, "lora", bad), _report(gold, "prompt", set())

    _losses.write_slices(gold, folder, tuned, tmp_path)
    slices = Slices.model_validate(read_json(tmp_path / "slices.json"))
    assert slices.worst is not None
    assert (slices.worst.key, slices.worst.value, slices.worst.weak) == ("shop", "west", True)
    assert slices.left_out["note"] == "no value has 20 rows"
    assert slices.left_out["empty"] == "all rows have one value"

    _losses.write_losses(gold, folder, tuned, [plain, _report(gold, "majority", set(list(west)))], "label.accuracy", tmp_path)
    lost = Losses.model_validate(read_json(tmp_path / "losses.json"))
    assert (lost.baseline, {one.id for one in lost.lost}, lost.won) == ("prompt", bad, 0)
    assert lost.groups is not None
    assert {row for group in lost.groups for row in group.ids} <= bad
    assert lost.to_add[0].what == "rows with shop west"


def test_e7_memorising_is_told_from_rows_of_both_splits(prepared: tuple[Path, Gold], tmp_path: Path) -> None:
    folder, gold = prepared
    asked: list[Gold] = []

    def by_heart(rows: Gold) -> EvalReport:
        asked.append(rows)
        return _report(rows, "lora", set())

    half = _report(gold, "lora", {sample.id for sample in gold.samples[::2]})
    _losses.write_memorised(gold, folder, half, "label.accuracy", by_heart, tmp_path, Silent())
    assert Gap.model_validate(read_json(tmp_path / "memorised.json")).verdict == "memorised"
    trained = {row.id for row in dataset.read(folder).rows("train")}
    assert {sample.id for sample in asked[0].samples} <= trained
    assert len(asked[0].samples) == min(200, len(gold.samples), len(trained))
    assert asked[0].samples == _losses.trained_sample(folder, len(asked[0].samples)).samples, "the same data, the same rows"

    _losses.write_memorised(gold, folder, half, "judge.wins", by_heart, tmp_path, Silent())
    assert "judge.wins" in read_json(tmp_path / "memorised.json")["not_measured"]

    def unreadable(_: Gold) -> EvalReport:
        raise InputError(Problem("evaluate.scorers", "none of them can read what lora says: it tells no log-probabilities", "add a scorer"))

    _losses.write_memorised(gold, folder, half, "pair_accuracy.accuracy", unreadable, tmp_path, Silent())
    assert read_json(tmp_path / "memorised.json") == {"not_measured": "pair_accuracy.accuracy: needs the base model's word on every row"}


@pytest.mark.slow
def test_a_run_keeps_them_and_its_gate_may_ask_for_the_worst_slice(tmp_path: Path) -> None:
    """E6: a no is exit 3, and what stands behind the gate is recorded as `skipped: gate`. The verdict's table has every system with its seconds per answer."""
    home = _home(tmp_path)
    outcome = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work")
    assert outcome.exit_code == 3
    store = Store(home / "work")
    behind = store.stages(outcome.run_id)["compress"]
    store.close()
    assert (behind["status"], behind["reason"]) == ("skipped", "gate")
    evaluated, gated = outcome.stages["evaluate"].folder, outcome.stages["gate"].folder
    assert evaluated is not None
    assert gated is not None
    Slices.model_validate(read_json(evaluated / "slices.json"))
    Gap.model_validate(read_json(evaluated / "memorised.json"))
    Losses.model_validate(read_json(gated / "losses.json"))
    verdict = Verdict.model_validate(read_json(gated / "verdict.json"))
    assert "of 3 slices" in verdict.rules[0].why
    assert [one.system for one in verdict.systems] == ["lora", "majority"]
    assert all(one.seconds_per_answer is not None and one.worst is not None for one in verdict.systems)
