"""`planish prune` (MISSION Z7 to Z11): forecast, folder and table from a model and a recipe's training rows; gold is never read; the result is a model for the next recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny
from tests.stages.test_decode_sweep import QUESTIONS
from typer.testing import CliRunner

from planish import prune as pruning
from planish.cli import app
from planish.data import dataset, gold
from planish.errors import InputError
from planish.model import calibration_text
from planish.model.chat import Chat
from planish.model.cut_folder import Source
from planish.progress import Silent
from planish.recipe import Recipe
from planish.stages import _importance
from planish.stages._prune import Removal
from planish.store.objects import file_hash


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    make_tiny(folder / "model", hidden=32, layers=3)
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    text = "recipe: 1\nmodel: model\ndata: {path: qa.jsonl, split: {gold: 0.3, validation: 0.2}, checks: []}\nbaseline: [prompt]\n"
    (folder / "qa.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def told(home: Path) -> pruning.Text:
    return pruning.text_of(home / "qa.yaml", home / "model", home / "space", Silent())


def call(home: Path, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["prune", str(home / "model"), "--workspace", str(home / "space"), "--json", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_verb_forecasts_and_then_writes_what_it_said(home: Path, tmp_path: Path) -> None:
    before = {path.name: file_hash(path) for path in (home / "model").iterdir()}
    arguments = [
        "--recipe",
        str(home / "qa.yaml"),
        "--layers",
        "1",
        "--channels",
        "16",
        "--vocabulary",
        "300",
        "--by",
        "gradient",
        "--compare",
        "--out",
        str(tmp_path / "out"),
    ]
    said = call(home, *arguments, "--dry-run")
    assert not (tmp_path / "out").exists()
    made = call(home, *arguments)
    assert {key: made[key] for key in ("before", "after", "bytes", "share")} == {key: said[key] for key in ("before", "after", "bytes", "share")}
    assert made["before"] - made["after"] == 212 * 32 + 1 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 96 * 32 + 2 * 32) + 2 * 16 * 3 * 32
    assert made["fertility"]["rise"] <= 0.03
    assert {one["kind"] for one in made["agreement"]} == {"layers", "heads", "channels"}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "model.safetensors", "vocabulary_map.json", "prune_report.json"}
    assert {path.name: file_hash(path) for path in (home / "model").iterdir()} == before


def test_z8_the_table_holds_every_method_and_unit(home: Path, told: pruning.Text, tmp_path: Path) -> None:
    """MISSION Z8 IO: kind, layer, unit, method, score; read back, the removed units are those with the lowest scores."""
    parquet = pytest.importorskip("pyarrow.parquet")
    done, _, _ = pruning.run(home / "model", tmp_path / "out", pruning.Request(Removal(channels=5, by="hessian"), compare=True), told, Silent())
    rows = parquet.read_table(tmp_path / "out" / "importance.parquet").to_pylist()
    assert {row["method"] for row in rows} == {"magnitude", "gradient", "hessian", "activation", "obs", "influence"}
    assert len([row for row in rows if row["method"] == "obs" and row["kind"] == "channels"]) == 3 * 96
    of_layer = {row["unit"]: row["score"] for row in rows if row["method"] == "hessian" and row["kind"] == "channels" and row["layer"] == 1}
    assert isinstance(done, pruning.PruneReport)
    kept = set(done.kept_channels[1])
    assert min(of_layer[unit] for unit in kept) >= max(score for unit, score in of_layer.items() if unit not in kept)


def test_z8_bad_gold_text_is_refused_and_never_read(home: Path, told: pruning.Text, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION Z8 Bad: units are scored on training rows; asking for the gold rows is refused, and none of their texts is among what is read."""

    def touched(*_: object) -> None:
        raise AssertionError("gold was read")

    prepared = next(path.parent for path in (home / "space").rglob("gold.json"))
    asked = {sample.messages[-1].content for sample in gold.read(prepared / "gold.json").samples}
    assert not [text for text in (*told.counted, *told.held_out) if any(str(question) + "<" in text for question in asked)]
    monkeypatch.setattr(gold, "read", touched)
    pruning.text_of(home / "qa.yaml", home / "model", home / "space", Silent())
    with pytest.raises(InputError, match="not for training"):
        calibration_text.sequences(dataset.read(prepared), Chat.load(home / "model"), split="gold")  # type: ignore[arg-type]


def test_ablation_ranks_by_the_truth(home: Path, told: pruning.Text) -> None:
    """Ablation is measured for the kinds that are asked for alone, and agrees with itself."""
    found = _importance.measure(Source(home / "model"), told.sequences[:2], ["layers"], Silent(), by="ablation")
    assert set(found["ablation"]) == {"layers"}
    pairs = _importance.agreement({"one": found["ablation"], "other": {"layers": -found["ablation"]["layers"]}, "flat": {"layers": torch.zeros(3)}})
    assert [pair.rho for pair in pairs] == pytest.approx([-1.0, 0.0, 0.0])


def test_z10_a_pruned_folder_is_the_model_of_the_next_recipe(home: Path, tmp_path: Path) -> None:
    """MISSION Z10: recovery is a train entry on the pruned folder; the recipe loads and its model is what was written."""
    from planish.model import bundled
    from planish.model.load import load

    call(home, "--layers", "1", "--out", str(tmp_path / "pruned"))
    (tmp_path / "recover.yaml").write_text("recipe: 1\nmodel: pruned\ndata: {path: qa.jsonl}\ntrain: [{objective: sft, adapter: full}]\n", encoding="utf-8")
    recipe = Recipe.load(tmp_path / "recover.yaml")
    folder = bundled.locate(recipe.model, tmp_path)
    assert len(load(folder, "fp32").model.layers) == 2  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (pruning.Request(Removal(layers=1, by="gradient")), "no recipe|measured on text"),
        (pruning.Request(Removal(layers=1, by="magic")), "unknown importance"),
        (pruning.Request(Removal(vocabulary=300)), "counted in training rows"),
        (pruning.Request(target="12x"), "no size"),
        (pruning.Request(target="1%"), "impossible"),
        (pruning.Request(Removal(), zero="wanda", options={"sparsity": 0.5}), "no norms"),
        (pruning.Request(Removal(layers=1), zero="magnitude"), "by themselves"),
        (pruning.Request(), "nothing would be removed"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(home: Path, tmp_path: Path, request_: pruning.Request, why: str) -> None:
    with pytest.raises(InputError, match=why):
        pruning.run(home / "model", tmp_path / "out", request_, pruning.Text(), Silent())
    assert not list(tmp_path.iterdir())


def test_influence_scores_layers_only(home: Path, told: pruning.Text) -> None:
    with pytest.raises(InputError, match="scores layers"):
        pruning.run(home / "model", None, pruning.Request(Removal(heads=1, by="influence")), told, Silent())


def test_zeroing_says_that_nothing_is_saved(home: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["prune", str(home / "model"), "--zero", "nm_sparsity", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "50.0% of" in done.stdout
    assert "save neither memory nor time" in done.stdout


def test_wanda_is_calibrated_on_training_rows(home: Path, told: pruning.Text, tmp_path: Path) -> None:
    request = pruning.Request(zero="wanda", options={"sparsity": 0.5})
    done, _, _ = pruning.run(home / "model", tmp_path / "out", request, told, Silent())
    assert isinstance(done, pruning.SparseReport)
    assert done.zeros == 0.5


def test_z10_bad_a_missing_parent_is_refused_and_a_share_is_said(tmp_path: Path) -> None:
    """MISSION Z10 Bad: without the unpruned parent's report nothing is said; with all three the sentence has damage, recovery and what is kept."""
    from planish.scores import EvalReport, Metric, Score

    for name, right in {"parent": 90, "pruned": 55, "recovered": 86}.items():
        scores = [Score(id=f"r{n}", answer=None, parsed=None, target="a", value=float(n < right)) for n in range(100)]
        metric = Metric(name="exact.exact", value=right / 100, n=100)
        report = EvalReport(system=name, gold="g", metrics={"exact.exact": metric}, scores=scores)
        (tmp_path / f"{name}.json").write_text(report.model_dump_json(), encoding="utf-8")
    paths = [tmp_path / f"{name}.json" for name in ("parent", "pruned", "recovered")]
    done = CliRunner().invoke(app, ["recovery", *map(str, paths), "--metric", "exact.exact"], catch_exceptions=False)
    assert "recovered 89% of the damage of 0.350; 95.6% of the parent is kept" in done.stdout
    (tmp_path / "pruned.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"parent is missing[^$]*no evaluation report"):
        pruning.recovered(tmp_path / "nowhere.json", *paths[1:], "exact.exact")


def test_z10_rewind_keeps_the_choice_and_takes_the_early_weights(home: Path, tmp_path: Path) -> None:
    """MISSION Z10: the units are those that the tuned model would keep, their weights those from before tuning; another model is refused."""
    from safetensors.torch import load_file
    from tests.transforms.conftest import tuned

    later = tuned(home / "model", tmp_path / "later", 1, size=1.0)
    request = pruning.Request(Removal(channels=40), rewind=home / "model")
    plain, _, _ = pruning.run(later, tmp_path / "plain", pruning.Request(Removal(channels=40)), pruning.Text(), Silent())
    made, _, _ = pruning.run(later, tmp_path / "rewound", request, pruning.Text(), Silent())
    assert isinstance(plain, pruning.PruneReport)
    assert isinstance(made, pruning.PruneReport)
    assert made.kept_channels == plain.kept_channels
    early, name = load_file(home / "model" / "model.safetensors"), "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(load_file(tmp_path / "rewound" / "model.safetensors")[name], early[name][made.kept_channels[1]])
    other = make_tiny(tmp_path / "other", hidden=32, layers=2)
    with pytest.raises(InputError, match="no earlier state"):
        pruning.run(later, tmp_path / "none", pruning.Request(Removal(channels=40), rewind=other), pruning.Text(), Silent())
