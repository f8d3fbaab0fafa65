"""NF4 checkpoints: loaded by transformers with bitsandbytes, and the same model as the 4-bit base that training loads (MISSION Z5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny
from transformers import AutoModelForCausalLM

from planish.errors import InputError
from planish.exporters.nf4 import export
from planish.model.load import load
from planish.model.nf4 import is_nf4, plain_folder
from planish.model.quantised import bits, four_bit_layers, measured_bits

pytest.importorskip("bitsandbytes")
IDS = torch.arange(3, 80)[None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("nf4") / "model", hidden=64)


def logits(loaded: Any) -> torch.Tensor:
    """By the model's own attention, and in fp32: left to itself, bitsandbytes repacks 4-bit weights on this kind of CPU and computes in bf16."""
    loaded.set_attn_implementation("eager")
    for part in loaded.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        found: torch.Tensor = loaded(input_ids=IDS, use_cache=False).logits
    return found


def test_z5_transformers_loads_what_training_would_load(model: Path, tmp_path: Path) -> None:
    """Same codes and scales, so the very same logits as our 4-bit load of the original; and not those of the original."""
    made = export(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / made.file, dtype=torch.float32, attn_implementation="eager")
    ours = load(model, "fp32", four_bit=True)
    assert len(four_bit_layers(theirs)) == len(four_bit_layers(ours)) == 14
    ours_by_name = four_bit_layers(ours)
    for name, layer in four_bit_layers(theirs).items():
        assert torch.equal(layer.weight.data, ours_by_name[name].weight.data), name
        assert torch.equal(layer.weight.quant_state.absmax, ours_by_name[name].weight.quant_state.absmax), name
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert torch.allclose(logits(theirs), logits(ours), atol=1e-4)
    assert not torch.allclose(logits(theirs), logits(plain), atol=1e-1)
    assert measured_bits(theirs) == pytest.approx(measured_bits(ours))
    assert is_nf4(tmp_path / made.file)
    assert not is_nf4(model)
    assert made.tensor_types["nf4 group 64"] == 14
    assert 0.05 < made.changed < 0.15  # 16 levels of a normal distribution: .09 relative error of a single layer


@pytest.mark.parametrize("double", [True, False])
def test_z5_the_plain_weights_are_those_that_the_codes_stand_for(model: Path, tmp_path: Path, double: bool) -> None:
    """bitsandbytes' own dequantisation inside the loaded model, and the plain folder that scoring reads. Bits: 4 + 8/64 + 32/(64 x 256) = 4.127, or 4 + 32/64 = 4.5; a layer of
    this size, whose second scales are not full, takes a little more."""
    made = export(model, tmp_path, double=double)
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path / made.file, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(plain_folder(tmp_path / made.file, tmp_path / "plain"), dtype=torch.float32)
    assert torch.allclose(logits(quantised), logits(plain), atol=1e-4)
    assert bits(double) <= measured_bits(quantised) < bits(double) + 0.02
    assert json.loads((tmp_path / made.file / "config.json").read_text())["quantization_config"]["bnb_4bit_use_double_quant"] is double
    assert (tmp_path / made.file / "tokenizer.json").is_file()


def test_codes_of_codes_are_refused(model: Path, tmp_path: Path) -> None:
    made = export(model, tmp_path)
    with pytest.raises(InputError, match="only floating weights"):
        export(tmp_path / made.file, tmp_path / "again")
