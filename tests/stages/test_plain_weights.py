"""`compress: {merge: ...}`: what a tuned adapter is merged into before it is exported, measured, and what is refused before anything runs (MISSION A5, A12)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.shelf_of_adapters import OPTIONS, moved, said
from tests.conftest import make_tiny

from planish import pipeline, shelf
from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.quantised import four_bit_layers
from planish.model.trained import open_trained, output_change, save
from planish.recipe import Recipe
from planish.stages._plain import plain, refusals


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=128, tied=False)
    rows = [{"text": f"phone {n}", "label": ("good", "bad")[n % 2]} for n in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def recipe(home: Path, adapter: str, merge: str = "original", four_bit: bool = False, before: str = "") -> Recipe:
    path = home / "recipe.yaml"
    entry = json.dumps({"objective": "sft", "adapter": {adapter: {}}, "four_bit": four_bit})
    head = "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.5}, checks: []}\nbaseline: [majority]\n"
    path.write_text(f"{head}train: [{before}{entry}]\ncompress: {{merge: {merge}, export: [gguf]}}\n", encoding="utf-8")
    return Recipe.load(path)


@pytest.mark.parametrize(
    ("adapter", "merge", "four_bit"), [("lora", "original", False), ("lora", "original", True), ("lora", "dequantised", True), ("dora", "original", False)]
)
def test_a5_what_an_adapter_is_merged_into(home: Path, tmp_path: Path, adapter: str, merge: str, four_bit: bool) -> None:
    """A plain LoRA for the original base is left to the exporter; anything else is written whole: its answers are the attached adapter's, on the 4-bit base where that is meant."""
    if four_bit:
        pytest.importorskip("bitsandbytes")
    base, asked = home / "model", recipe(home, adapter, merge, four_bit)
    prepared = pipeline.run(asked, workspace=tmp_path / "space", until="prepare").stages["prepare"].folder
    assert prepared is not None
    model: Any = moved(shelf.call("adapters", adapter, "attach", OPTIONS[adapter])(load(base, "fp32", four_bit=four_bit)))
    save(model, Chat.load(base), tmp_path / "run", base)
    found = plain(asked, base, tmp_path / "run", prepared, tmp_path / "work")
    if adapter == "lora" and merge == "original":
        assert found == (base, tmp_path / "run" / "adapter", None)
        return
    assert found.adapter is None
    assert found.apart is not None
    assert found.apart < 1e-3
    whole = load(found.checkpoint, "fp32")
    assert not four_bit_layers(whole)
    assert output_change(said(whole), said(open_trained(base, tmp_path / "run", "fp32", four_bit=merge == "dequantised"))) < 1e-3


@pytest.mark.parametrize(
    ("adapter", "given", "why"),
    [
        ("prompt", {}, "PROMPT_TUNING cannot be merged: virtual tokens are no weights"),
        ("prefix", {}, "PREFIX_TUNING cannot be merged"),
        ("bottleneck", {}, "BOTTLENECK cannot be merged"),
        ("lora", {"merge": "dequantised"}, "dequantised is for a base in 4 bits"),
        ("lora", {"merge": "dequantised", "four_bit": True, "before": "{objective: sft, adapter: dora}, "}, "merged into the original base between them"),
    ],
)
def test_a5_what_cannot_be_merged_is_refused_before_anything_runs(home: Path, adapter: str, given: dict[str, Any], why: str) -> None:
    (problem,) = refusals(recipe(home, adapter, **given))
    assert why in problem.why
    assert problem.fix


def test_a5_an_unknown_merge_is_an_error(home: Path) -> None:
    with pytest.raises(InputError, match="'original' or 'dequantised'"):
        recipe(home, "lora", "four_bit")
