"""`planish plan` on the tiny model: the table, the verdict, the change that fits, what cannot be planned, and a real probe."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from safetensors.numpy import load_file
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import plan as planning
from planish import plan_probe
from planish.cli import app
from planish.errors import InputError
from planish.model import memory_shape, planned_rows
from planish.model.chat import Chat
from planish.recipe import Recipe
from planish.rows import Message


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


def test_rows_beyond_the_models_context_take_nothing(tiny: Path, tmp_path: Path) -> None:
    """A row that training refuses is no part of the plan, with max_length or by the model's own context; where every row is such, that is an error."""
    model = tmp_path / "short"
    shutil.copytree(tiny, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 60}), encoding="utf-8")
    loaded = Recipe.load(recipe(tmp_path, model))
    before = planned_rows.of(loaded, loaded.train[0], model)
    assert before.longest <= 60
    long = {"messages": [{"role": "user", "content": "is the phone good " * 40}, {"role": "assistant", "content": "positive"}]}
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write(json.dumps(long) + "\n")
    assert planned_rows.of(loaded, loaded.train[0], model) == before
    assert planned_rows.of(loaded, loaded.train[0], tiny).longest > 60
    (tmp_path / "rows.jsonl").write_text(json.dumps(long) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="no row can be trained on within 60 tokens"):
        planned_rows.of(loaded, loaded.train[0], model)


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


@pytest.mark.parametrize("lambda_on", [0.5, 0.6])
def test_t7_a_teacher_and_a_rollout_are_planned(tiny: Path, tmp_path: Path, lambda_on: float) -> None:
    """A teacher of width 64 (FFN 192) beside the student of width 48 (2 layers, KV width 24, 512 tokens), fp32; rows become their prompt, 8 sampled tokens and an end.

    Of 4 rows a step the student writes at most 2 (of .6: 3), all padded to the longest: keys and values 2 x 2 layers x 24 x 4 B a token. The teacher: 4 B a weight;
    (4 x 64 + 3 x 192) x 4 B a token; 64 x 4 B and 8 x 512 x 4 B a scored row. kd from a capture has neither."""
    teacher = make_tiny(tmp_path / "teacher", hidden=64)
    weights = sum(array.size for array in load_file(teacher / "model.safetensors").values())
    path = recipe(
        tmp_path, tiny, f"{{objective: {{on_policy_kd: {{teacher: teacher, lambda_on: {lambda_on}, max_new_tokens: 8}}}}, precision: fp32, batch_size: 4}}"
    )
    loaded = Recipe.load(path)
    one = planning.plan(loaded, planning.machine(None, "24GB"))[0]
    chat = Chat.load(tiny)
    lengths = [len(chat.prompt((Message(role="user", content=f"is the phone {n} good"),))) + 9 for n in range(12)]
    length = math.ceil(sum(lengths) / 12)
    scored = math.ceil(length * 12 * 9 / sum(lengths))
    assert (one.setup.micro, one.setup.length, one.setup.scored) == (4, length, scored)
    at_once = {0.5: 2, 0.6: 3}[lambda_on]
    assert one.estimate.bytes("kv") == at_once * max(lengths) * 2 * 2 * 24 * 4
    assert one.estimate.bytes("beside") == 4 * weights
    assert one.estimate.bytes("asked") == 4 * length * (4 * 64 + 3 * 192) * 4 + 4 * scored * 64 * 4 + 8 * 4 * scored * 512 * 4
    shown = planning.text([one])
    assert all(f"  {name} " in shown for name in ("beside", "asked", "kv"))
    captured = planning.plan(Recipe.load(recipe(tmp_path, tiny, "{objective: {kd: {capture: held}}, precision: fp32, batch_size: 4}")), one.machine)[0]
    plain = planning.plan(Recipe.load(recipe(tmp_path, tiny)), one.machine)[0]
    assert captured.estimate == plain.estimate
    peak = plan_probe.Peak(process=1e5, loading=1e6, steps=1e8)
    assert planning.compared(0, one, peak).predicted == pytest.approx(
        1e5 + sum(term.bytes for term in one.estimate.terms if term.name not in ("process", *BROUGHT))
    )


BROUGHT = ("beside", "asked", "kv")


def test_a_teacher_that_is_not_there_cannot_be_planned(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        planning.plan(Recipe.load(recipe(tmp_path, tiny, "{objective: {on_policy_kd: {teacher: nowhere}}}")), planning.machine(None, "24GB"))


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
