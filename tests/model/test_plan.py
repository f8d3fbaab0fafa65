"""`planish plan` on the tiny model: the table, the verdict, the change that fits, what cannot be planned, and a real probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from typer.testing import CliRunner

from planish import plan as planning
from planish import plan_probe
from planish.cli import app
from planish.errors import InputError
from planish.model import memory_shape
from planish.recipe import Recipe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No factor of this machine comes in, and none is left."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: tmp_path / "cache")


def recipe(tmp_path: Path, model: Path, train: str = "{objective: sft, precision: fp32, batch_size: 4}") -> Path:
    rows = [{"messages": [{"role": "user", "content": f"is the phone {n} good"}, {"role": "assistant", "content": "positive"}]} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"recipe: 1\nmodel: {model}\ndata: {{path: rows.jsonl}}\ntrain: [{train}]\n", encoding="utf-8")
    return path


def test_t7_the_table_and_the_verdict(tiny: Path, tmp_path: Path) -> None:
    """The sum of the terms is the peak; it fits 24 GB and the named card; 1 MB it does not fit, and nothing makes it."""
    path = recipe(tmp_path, tiny)
    said = CliRunner().invoke(app, ["plan", str(path), "--memory", "24GB"])
    assert said.exit_code == 0, said.output
    assert "estimated" in said.output
    assert "fits 24GB of memory" in said.output
    told = json.loads(CliRunner().invoke(app, ["plan", str(path), "--device", "nvidia geforce rtx4090", "--json"]).output)[0]
    assert (told["fits"], told["label"], told["machine"]["name"]) == (True, "estimated", "RTX 4090")
    assert sum(term["bytes"] for term in told["terms"].values()) == pytest.approx(told["total"])
    small = CliRunner().invoke(app, ["plan", str(path), "--memory", "1MB"])
    assert "nothing makes it fit" in small.output
    assert "asks you" in small.output


def test_the_cheapest_change_that_fits(tiny: Path, tmp_path: Path) -> None:
    """Just under what it takes: one automatic lever, and the rows of a step stay."""
    loaded = Recipe.load(recipe(tmp_path, tiny))
    high = planning.plan(loaded, planning.machine(None, "24GB"))[0].estimate.high
    one = planning.plan(loaded, planning.machine(None, f"{(high - 1e5) / 1e6:.3f}MB"))[0]
    assert not one.fits
    assert one.descent.fits
    assert not one.descent.asks
    assert one.descent.setup.rows == one.setup.rows
    assert f"lever {one.descent.levers[-1].number}" in planning.text([one])


@pytest.mark.parametrize(
    ("adapter", "options", "count"),
    [
        ("lora", {"r": 4, "targets": ["q_proj", "v_proj"]}, 2 * 4 * ((48 + 48) + (48 + 24))),
        ("dora", {"r": 4, "targets": ["q_proj", "v_proj"]}, 2 * 4 * ((48 + 48) + (48 + 24)) + 2 * (48 + 24)),
        ("prompt", {"tokens": 5}, 5 * 48),
    ],
)
def test_trained_parameters_by_hand(tiny: Path, adapter: str, options: dict[str, Any], count: int) -> None:
    """H = 48, KV width 24, 2 layers: r (in + out) of q and v; DoRA's lengths add their rows; 5 virtual tokens of H."""
    shape, model = memory_shape.read(tiny)
    assert (shape.hidden, shape.kv_width, shape.ffn, shape.layers, shape.vocabulary) == (48, 24, 144, 2, 512)
    assert memory_shape.trained(model, adapter, options).count == count


def test_what_cannot_be_planned(tiny: Path, tmp_path: Path) -> None:
    """An unknown architecture needs a measured run and says so; wrong sizes, devices and both at once are refused; so is measuring another machine."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "sorcery"}), encoding="utf-8")
    with pytest.raises(InputError, match="--measure"):
        memory_shape.read(other)
    for device, size in (("RTX 4091", None), (None, "lots"), (None, "0GB"), ("T4", "1GB")):
        with pytest.raises(InputError):
            planning.machine(device, size)
    loaded = Recipe.load(recipe(tmp_path, tiny))
    with pytest.raises(InputError, match="this machine"):
        planning.measure(loaded, planning.machine("T4", None))
    with pytest.raises(InputError, match="trains nothing"):
        planning.plan(loaded.model_copy(update={"train": []}), planning.machine("T4", None))


def test_t7_what_a_probe_measured_corrects_later_plans(tiny: Path, tmp_path: Path) -> None:
    """The part that is not weights was predicted as x and measured as 2 x: factor 2, kept for this kind of setup alone, and the next plan has it."""
    path = recipe(tmp_path, tiny, "{objective: sft, adapter: full, precision: fp32, batch_size: 4}")
    here = planning.machine(None, None)
    one = planning.plan(Recipe.load(path), here)[0]
    fluid = sum(one.estimate.bytes(name) for name in ("activations", "logits", "temporary"))
    fixed = one.estimate.total - one.estimate.bytes("process") - fluid
    peak = plan_probe.Peak(process=1e5, loading=1e6, steps=1e5 + fixed + 2 * fluid)
    assert planning.compared(0, one, peak).factor == pytest.approx(2.0)
    again = planning.plan(Recipe.load(path), here)[0]
    assert again.factor == pytest.approx(2.0)
    assert again.estimate.bytes("activations") == pytest.approx(2 * one.estimate.bytes("activations"))
    assert planning.plan(Recipe.load(recipe(tmp_path, tiny)), here)[0].factor is None
    assert planning.compared(0, None, peak).predicted is None


@pytest.mark.slow
def test_a_probe_measures_two_real_steps(tiny: Path, tmp_path: Path) -> None:
    """The child's peak holds its process and the model; of so small a model nothing is kept, since its activations drown in the process's own."""
    loaded = Recipe.load(recipe(tmp_path, tiny))
    one = planning.measure(loaded, planning.machine(None, None))[0]
    assert one.peak.steps >= one.peak.process > 1e8
    assert one.predicted is not None
    assert one.predicted > one.peak.process
    assert one.factor is None
    assert planning.plan(loaded, planning.machine(None, None))[0].factor is None
    assert "measured" in planning.probed_text([one])
