"""GPTQ, AWQ and RTN checkpoints: every layout read back as what was computed, hand-packed words, streamed and whole or absent (MISSION Z1, Z3, Z4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_tiny
from transformers import LlamaForCausalLM

from planish.errors import InputError, RunFailed
from planish.exporters import awq, gptq, rtn
from planish.model import packed_checkpoint
from planish.model.awq_folds import apply, folds
from planish.model.calibration_pass import Calibration
from planish.model.load import load
from planish.model.packed import Form, form_of, numbers, pack, unpack, words
from planish.model.packed_checkpoint import plain_folder
from planish.model.rtn import Coded, Grid
from planish.model.rtn import rtn as round_to_nearest

DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 64, MLP 192: groups of 64; grouped queries, so that o_proj has nowhere to fold to."""
    return make_tiny(tmp_path_factory.mktemp("packed") / "model", hidden=64)


@pytest.fixture(scope="module")
def calibration(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    draw = torch.Generator().manual_seed(0)
    return Calibration(model, None, [torch.randint(3, 500, (24,), generator=draw).tolist() for _ in range(40)], tmp_path_factory.mktemp("grams"))


def coded(rows: int, columns: int, bits: int, symmetric: bool) -> Coded:
    return round_to_nearest(torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)), bits, 32, symmetric=symmetric, stored=torch.float16)


def test_words_by_hand() -> None:
    """4 bits: codes 1..8, lowest first, are 0x87654321, which as a signed word is -2023406815. 3 bits: code k of 32 stands at bit 3k; 7 at place 10 fills bits 30, 31, 32."""
    assert words(torch.arange(1, 9)[None], 4).tolist() == [[0x87654321 - 2**32]]
    codes = torch.zeros(1, 32, dtype=torch.int32)
    codes[0, 10] = 7
    assert words(codes, 3).tolist() == [[-(2**30), 1, 0]]
    assert torch.equal(numbers(words(codes, 3), 3, 32), codes)


def test_awq_words_by_hand() -> None:
    """AWQ: of eight outputs the order in a word is 0 2 4 6 1 3 5 7, lowest nibble first. Codes 0..7 of outputs 0..7 make 0x75316420; the zero 8 everywhere 0x88888888."""
    grid = Grid(torch.ones(8, 1), torch.zeros(8, 1, dtype=torch.int32), 4)
    found = pack("x", Coded((torch.arange(8) - 8)[:, None].expand(8, 32).int(), grid, 32), Form("awq", 4, 32, False))
    assert found["x.qweight"].shape == (32, 1)
    assert set(found["x.qweight"].flatten().tolist()) == {0x75316420}
    assert found["x.qzeros"].tolist() == [[0x88888888 - 2**32]]


@pytest.mark.parametrize(
    "form",
    [
        Form("compressed-tensors", 4, 32, True),
        Form("compressed-tensors", 3, 32, True),
        Form("compressed-tensors", 4, 32, False),
        Form("gptq", 4, 32, True),
        Form("gptq", 3, 32, True),
        Form("awq", 4, 32, False),
    ],
    ids=str,
)
def test_each_layout_is_read_back_exactly(form: Form) -> None:
    made = coded(32, 96, form.bits, form.symmetric)
    found = pack("x", made, form)
    stored = {name: value.half() if value.is_floating_point() else value for name, value in found.items()}
    assert torch.equal(unpack("x", stored.__getitem__, 32, 96, form), made.values())


def same(folder: Path, report: Any, work: Path, expected: dict[str, torch.Tensor]) -> None:
    """The written folder stands for the expected weights, and transformers opens what it stands for."""
    plain = plain_folder(folder / report.file, work)
    written = load_file(plain / "model.safetensors")
    for name, value in expected.items():
        assert torch.allclose(written[name], value, atol=1e-6), name
    assert LlamaForCausalLM.from_pretrained(plain).num_parameters() > 0


@pytest.mark.parametrize("layout", ["compressed-tensors", "gptq"])
@pytest.mark.parametrize("bits", [3, 4])
def test_z1_an_rtn_folder_holds_the_rounded_weights(model: Path, tmp_path: Path, bits: Any, layout: Any) -> None:
    report = rtn.export(model, tmp_path, bits=bits, layout=layout)
    weights = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    expected = {
        name: round_to_nearest(value, bits, 64, stored=torch.float16).values() if "_proj" in name else value
        for name, value in weights.items()
        if name != "lm_head.weight"
    }
    same(tmp_path, report, tmp_path / "plain", expected)
    assert report.tensor_types[f"int{bits} group 64"] == 14
    assert report.notes == ("groups of 64, not 128: the widths are no multiples of it",)
    assert 0.02 < report.changed < 0.3
    said = json.loads((tmp_path / report.file / "config.json").read_text())
    assert form_of(said, "x") == Form(layout, bits, 64, True)
    assert (tmp_path / report.file / "tokenizer.json").is_file()
    assert report.bytes == (tmp_path / report.file / "model.safetensors").stat().st_size < (model / "model.safetensors").stat().st_size


def outputs(folder: Path) -> torch.Tensor:
    ids = torch.arange(3, 100)[None]
    with torch.no_grad():
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits.log_softmax(-1)


def divergence(model: Path, other: Path) -> float:
    source, found = outputs(model), outputs(other)
    return float((source.exp() * (source - found)).sum(-1).mean())


@pytest.mark.parametrize("act_order", [False, True])
def test_z4_gptq_answers_nearer_to_the_source_than_rtn(model: Path, calibration: Calibration, tmp_path: Path, act_order: bool) -> None:
    report = gptq.export(model, tmp_path, None, calibration, act_order=act_order)
    assert report.output_error is not None
    assert report.output_error < 1
    assert report.fell_back == ()
    assert any("40 sequences, fewer than 128" in note for note in report.notes)
    plain = rtn.export(model, tmp_path)
    ours = divergence(model, plain_folder(tmp_path / report.file, tmp_path / "gptq"))
    assert ours < divergence(model, plain_folder(tmp_path / plain.file, tmp_path / "rtn"))


def test_z4_layers_that_no_text_reached_are_rounded_and_listed(model: Path, calibration: Calibration, tmp_path: Path) -> None:
    dark = Calibration(model, None, calibration.sequences, calibration.root)
    grams = calibration.grams
    dark.__dict__["grams"] = type(grams)({name: first for name, first in grams.inputs.items() if name != DOWN}, grams.matrices, grams.sequences, grams.tokens)
    report = gptq.export(model, tmp_path, None, dark)
    assert [(one.tensor, one.written) for one in report.fell_back] == [(f"{DOWN}.weight", "RTN")]


def test_z3_before_rounding_the_scaled_layer_answers_the_same(model: Path, tmp_path: Path) -> None:
    """Z3 proof: scales in, outputs equal; here with scales drawn at random for every fold of every layer."""
    source = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    before = outputs(model)
    tensors, draw = dict(source.state_dict()), torch.Generator().manual_seed(0)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    for index in range(2):
        for fold in folds(f"model.layers.{index}.", shapes)[0]:
            apply(fold, torch.rand(shapes[fold.readers[0]][1], generator=draw) + 0.5, tensors)
    source.load_state_dict(tensors)
    source.save_pretrained(tmp_path / "scaled")
    assert float((outputs(tmp_path / "scaled") - before).abs().max()) < 1e-4


@pytest.mark.parametrize(("layout", "symmetric"), [("compressed-tensors", True), ("compressed-tensors", False), ("awq", False)])
def test_z3_awq_is_not_worse_than_rtn_and_lists_what_has_nowhere_to_fold(
    model: Path, calibration: Calibration, tmp_path: Path, layout: Any, symmetric: bool
) -> None:
    report = awq.export(model, tmp_path, None, calibration, layout=layout, symmetric=symmetric)
    assert report.output_error is not None
    assert report.output_error <= 1
    assert [one.tensor for one in report.fell_back] == [f"model.layers.{index}.self_attn.o_proj.weight" for index in range(2)]
    assert divergence(model, plain_folder(tmp_path / report.file, tmp_path / "plain")) < 0.5
    assert form_of(json.loads((tmp_path / report.file / "config.json").read_text()), "x") == Form(layout, 4, 64, symmetric)
    assert any("layout: awq holds them" in note for note in report.notes) == (layout == "compressed-tensors" and not symmetric)


def test_z3_without_grouped_queries_values_take_the_scales(tmp_path: Path) -> None:
    shapes = {f"model.layers.0.self_attn.{part}_proj.weight": (64, 64) for part in "qkvo"}
    found, alone = folds("model.layers.0.", shapes)
    assert alone == []
    assert found[-1].writer.endswith("v_proj.weight")


def test_unknown_families_small_words_and_missing_text_are_refused(model: Path, calibration: Calibration, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_tiny(other, hidden=64)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(InputError, match="GPT2LMHeadModel is not known to AWQ"):
        awq.export(other, tmp_path, None, calibration)
    with pytest.raises(InputError, match="the awq layout holds 4 bits"):
        awq.export(model, tmp_path, None, calibration, bits=3, layout="awq")
    with pytest.raises(InputError, match="needs text to calibrate on"):
        gptq.export(model, tmp_path)
    with pytest.raises(InputError, match="no group of 128, 64 or 32 columns divides"):
        rtn.export(make_tiny(tmp_path / "odd", hidden=40), tmp_path)


def test_a_compressor_that_did_nothing_is_an_error(model: Path, tmp_path: Path) -> None:
    """Weights that lie on the grid already: the second rounding changes no value."""
    report = rtn.export(model, tmp_path)
    again = plain_folder(tmp_path / report.file, tmp_path / "plain")
    with pytest.raises(RunFailed, match="no weight was changed"):
        rtn.export(again, tmp_path / "second")
    assert not any((tmp_path / "second").glob("*"))


def test_an_interrupted_write_leaves_nothing_and_nan_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return pack(*given)

    monkeypatch.setattr(packed_checkpoint, "pack", broken)
    with pytest.raises(KeyboardInterrupt):
        rtn.export(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    sick = LlamaForCausalLM.from_pretrained(model)
    with torch.no_grad():
        sick.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    sick.save_pretrained(tmp_path / "sick")
    with pytest.raises(InputError, match="holds NaN"):
        rtn.export(tmp_path / "sick", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_adapter_is_merged_as_it_is_read(model: Path, calibration: Calibration, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(model, dtype=torch.float32), LoraConfig(r=4, lora_alpha=32, target_modules=["down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    report = rtn.export(model, tmp_path, tmp_path / "adapter")
    same(tmp_path, report, tmp_path / "plain", {f"{DOWN}.weight": round_to_nearest(merged[f"{DOWN}.weight"], 4, 64, stored=torch.float16).values()})
    both = Calibration(model, tmp_path / "adapter", calibration.sequences, calibration.root).grams
    assert not torch.equal(both.of("model.layers.1.mlp.down_proj").matrix, calibration.grams.of("model.layers.1.mlp.down_proj").matrix)


def test_the_plain_folder_is_what_our_engine_loads(model: Path, tmp_path: Path) -> None:
    report = rtn.export(model, tmp_path)
    opened = load(plain_folder(tmp_path / report.file, tmp_path / "plain"), "fp32")
    assert next(opened.parameters()).dtype is torch.float32
