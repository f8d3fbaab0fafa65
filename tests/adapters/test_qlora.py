"""The 4-bit base: its codes and bits, training over it, and where an adapter of it is merged (MISSION A5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.shelf_of_adapters import OPTIONS, log_probs, moved, said

from planish import shelf
from planish.errors import InputError
from planish.model import merge
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.low_rank import low_rank_layers
from planish.model.optimizer import trainable
from planish.model.quantised import dequantised, four_bit_layers, measured_bits
from planish.model.trained import merged, open_trained, output_change, save

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Layers whose weights are whole blocks of 64 x 256 values: H = 128, so that nothing is padded."""
    from tests.conftest import make_tiny

    return make_tiny(tmp_path_factory.mktemp("wide") / "model", hidden=128, tied=False)


def qlora(base: Path, name: str = "lora", **more: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    model: torch.nn.Module = shelf.call("adapters", name, "attach", OPTIONS[name] | more)(load(base, "fp32", four_bit=True))
    return model


def test_a5_sixteen_levels() -> None:
    """MISSION A5: NF4's codes are bitsandbytes' own: 16 levels, 0 and +-1 among them, rising."""
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    levels = get_4bit_type("nf4", device="cpu")
    assert len(levels) == 16
    assert {-1.0, 0.0, 1.0} <= set(levels.tolist())
    assert (levels.diff() > 0).all()
    values = torch.linspace(-1, 1, 64 * 64)
    codes, state = quantize_4bit(values, quant_type="nf4", blocksize=4096)
    assert codes.numel() == 64 * 64 // 2  # two codes a byte
    assert torch.allclose(dequantize_4bit(codes, state).unique(), levels, atol=1e-6)


def test_a5_measured_bits(wide: Path) -> None:
    """MISSION A5: what the layers take is 4.127 bits a weight, up to one scale of scales per layer that is not full."""
    model = load(wide, "fp32", four_bit=True)
    assert len(four_bit_layers(model)) == 14
    assert measured_bits(model) == pytest.approx(4.127, abs=0.002)
    with pytest.raises(InputError, match="has no 4-bit layer"):
        measured_bits(load(wide, "fp32"))


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "bottleneck", "prompt", "prefix"])
def test_an_adapter_on_a_four_bit_base_learns_and_opens_again(wide: Path, tmp_path: Path, name: str) -> None:
    """Gradients reach every trained tensor and no code; the files open on the 4-bit base to the same answers, and say which format they were trained on."""
    model = moved(qlora(wide, name))
    log_probs(model).sum().backward()
    for parameter in trainable(model).values():
        assert parameter.grad is not None
        assert parameter.grad.any()
    save(model, Chat.load(wide), tmp_path, wide)
    assert json.loads((tmp_path / "adapter" / "base.json").read_text(encoding="utf-8"))["trained_on"] == "nf4"
    assert torch.allclose(said(open_trained(wide, tmp_path, "fp32", four_bit=True)), said(model), atol=1e-5)


def test_merging_goes_into_the_original_or_the_dequantised_base_never_into_four_bits(wide: Path, tmp_path: Path) -> None:
    """MISSION A5. Dequantised: the attached answers within 1e-4. Original: those of the adapter on the 16-bit base, which are others."""
    model: Any = moved(qlora(wide))
    save(model, Chat.load(wide), tmp_path, wide)
    with pytest.raises(InputError, match="16 levels would round"):
        merge.merge_into(model, "run")
    with pytest.raises(InputError, match="16 levels would round"):
        merge.attach_merged(model)
    whole: Any = merged(wide, tmp_path, "dequantised")
    assert not four_bit_layers(whole)
    assert output_change(said(whole), said(model)) < 1e-4
    whole.save_pretrained(tmp_path / "whole")
    assert output_change(said(load(tmp_path / "whole", "fp32")), said(model)) < 1e-4
    original = said(merged(wide, tmp_path))
    assert output_change(original, said(open_trained(wide, tmp_path, "fp32"))) < 1e-4
    assert output_change(original, said(model)) > 1e-2


def test_dequantised_is_what_the_codes_stand_for(wide: Path) -> None:
    model = load(wide, "fp32", four_bit=True)
    before = said(model)
    plain = dequantised(model)
    assert not four_bit_layers(plain)
    assert output_change(said(plain), before) < 1e-4


def test_loftq_starts_nearer_to_the_sixteen_bit_base(wide: Path) -> None:
    """LoftQ (arXiv 2310.08659): the start holds the largest part of W - NF4(W), so that every layer is nearer to W than its codes are."""
    exact: Any = load(wide, "fp32")
    model = qlora(wide, init="loftq", r=16)
    from bitsandbytes.functional import dequantize_4bit

    from planish.model.low_rank import delta

    for name, layer in low_rank_layers(model).items():
        weight = exact.get_submodule(name).weight.detach()
        held = dequantize_4bit(layer.base_layer.weight.data, layer.base_layer.weight.quant_state).float()
        u, s, v = torch.linalg.svd(weight - held)
        assert torch.allclose(delta(layer), (u[:, :16] * s[:16]) @ v[:16], atol=1e-5)
        assert (weight - held - delta(layer)).norm() < (weight - held).norm()
    assert (said(model) - said(exact)).norm() < (said(load(wide, "fp32", four_bit=True)) - said(exact)).norm()


def test_pissa_on_four_bits_is_refused(wide: Path) -> None:
    with pytest.raises(InputError, match="use loftq"):
        qlora(wide, init="pissa")
