"""What each adapter trains, as MISSION's numbers have it: shapes of real models on the meta device, so that nothing is allocated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from planish import shelf
from planish.errors import InputError
from planish.model.account import account
from planish.model.quantised import bits, size_in_bytes


def shape(kind: str, **config: Any) -> nn.Module:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**config))


def p135() -> nn.Module:
    """MISSION's P135: H = 576, 30 layers, 9 query and 3 key heads of 64 (KV width 192), FFN 1536, V = 49,152 tied."""
    return shape(
        "llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


def counted(model: nn.Module, name: str, **options: Any) -> Any:
    found = account(shelf.call("adapters", name, "attach", options)(model))
    # the formula says what the number says: 30 x (16 x 576) + ...
    assert eval(found.formula.replace("x", "*"), {"__builtins__": {}}) == found.trainable
    return found


def test_a1_state_and_artefact() -> None:
    """MISSION A1: 134,515,008 parameters x 16 bytes (fp32 weight, gradient, two moments) = 2.152 GB; x 2 bytes in bf16 = 269.0 MB."""
    found = counted(p135(), "full")
    assert found.trainable == found.base == 134_515_008
    assert found.share == 1
    assert round(found.trainable * 16 / 1e9, 2) == 2.15
    assert round(found.trainable * 2 / 1e6) == 269


class One(nn.Module):
    """A model of one 4096 x 4096 layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4096, 4096, bias=False)


@pytest.mark.parametrize(("dora", "number"), [(False, 65_536), (True, 69_632)])
def test_a2_a4_worked_number(dora: bool, number: int) -> None:
    """MISSION A2: rank 8 on 4096 x 4096 trains 8 x (4096 + 4096) = 65,536 of 16,777,216: 256 times fewer; A4: DoRA adds 4,096 lengths = 69,632.
    A12: 65,536 values in bf16 are 131 kB."""
    from peft import LoraConfig, inject_adapter_in_model

    model = inject_adapter_in_model(LoraConfig(r=8, target_modules=["layer"], use_dora=dora), One())
    found = account(model)
    assert found.trainable == number
    if not dora:
        assert found.base / found.trainable == 256
        assert round(found.trainable * 2 / 1000) == 131


def test_a3_p135_ranks() -> None:
    """MISSION A3, r = 16 on P135, r (in + out) per layer:
    q (576 -> 576): 16 x 1152 = 18,432; k, v (576 -> 192): 16 x 768 = 12,288 each; o: 18,432; gate, up (576 -> 1536), down: 16 x 2112 = 33,792 each.
    q, v: 30 x 30,720 = 921,600 (.685 %); q, k, v, o: 30 x 61,440 = 1,843,200; all: 30 x 162,816 = 4,884,480 (3.63 %)."""
    found = counted(p135(), "lora", r=16, targets=["q_proj", "v_proj"])
    assert found.trainable == 921_600
    assert round(100 * found.share, 3) == 0.685
    assert found.base == 134_515_008
    assert counted(p135(), "lora", r=16, targets=["q_proj", "k_proj", "v_proj", "o_proj"]).trainable == 1_843_200
    everything = counted(p135(), "lora", r=16)
    assert everything.trainable == 4_884_480
    assert round(100 * everything.share, 2) == 3.63


def test_a3_llama_3b() -> None:
    """MISSION A3 and correction (h): 28 layers, H = 3072, KV width 1024, r = 16 on q, k, v, o: 28 x 16 x (6144 + 4096 + 4096 + 6144) = 9,175,040."""
    llama = shape("llama", vocab_size=1024, hidden_size=3072, intermediate_size=64, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8)
    assert counted(llama, "lora", r=16, targets=["q_proj", "k_proj", "v_proj", "o_proj"]).trainable == 9_175_040


@pytest.mark.parametrize(("rslora", "scale"), [(False, 0.5), (True, 4.0)])
def test_a3_scale(rslora: bool, scale: float) -> None:
    """MISSION A3: alpha 32 at r = 64 is 32 / 64 = .5; rank-stabilised 32 / sqrt(64) = 4."""
    model: Any = shelf.call("adapters", "lora", "attach", {"r": 64, "alpha": 32, "rslora": rslora, "targets": ["q_proj"]})(p135())
    assert {module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A")} == {scale}


def test_a5_bits() -> None:
    """MISSION A5: 4 + 8/64 + 32/(64 x 256) = 4.127 bits; without double quantisation 4 + 32/64 = 4.5: .373 saved. 70 B: 140 GB in 16 bits, 35.0 of codes, 36.1 with constants."""
    assert round(bits(), 3) == 4.127
    assert bits(double=False) == 4.5
    assert round(bits(double=False) - bits(), 3) == 0.373
    assert 70e9 * 2 / 1e9 == 140
    assert 70e9 * 4 / 8 / 1e9 == 35.0
    assert round(size_in_bytes(70e9) / 1e9, 1) == 36.1


def test_a6_ia3() -> None:
    """MISSION A6: (192 keys + 192 values + 1536 feed-forward inputs) x 30 = 57,600 (.043 %)."""
    found = counted(p135(), "ia3")
    assert found.trainable == 57_600
    assert round(100 * found.share, 3) == 0.043


def test_a7_prompt() -> None:
    """MISSION A7: 20 x 576 = 11,520. The embeddings are copied, so they cannot be on the meta device."""
    small = shape("llama", vocab_size=64, hidden_size=576, intermediate_size=8, num_hidden_layers=1, num_attention_heads=9).to_empty(device="cpu")
    assert counted(small, "prompt").trainable == 11_520


def test_a8_prefix() -> None:
    """MISSION A8: 30 layers x 2 x 20 x 192 = 230,400 (.171 %): keys and values have the width of the key heads."""
    found = counted(p135(), "prefix")
    assert found.trainable == 230_400
    assert round(100 * found.share, 3) == 0.171


def test_p_tuning_formula() -> None:
    """20 x 576 embeddings and three layers 576 x 576 + 576: 11,520 + 3 x 332,352 = 1,008,576."""
    assert counted(p135(), "p_tuning").trainable == 11_520 + 3 * (576 * 576 + 576)


def test_a9_bottleneck() -> None:
    """MISSION A9: 2 x 576 x 64 + 64 + 576 = 74,368; x 30 = 2,231,040 (1.66 %)."""
    found = counted(p135(), "bottleneck", middle=64)
    assert 2 * 576 * 64 + 64 + 576 == 74_368
    assert found.trainable == 30 * 74_368 == 2_231_040
    assert round(100 * found.share, 2) == 1.66
    assert counted(p135(), "bottleneck", middle=64, places="both").trainable == 2 * 2_231_040


def test_a10_bitfit() -> None:
    """MISSION A10, GPT-2 small: 12 x (2304 + 768 + 3072 + 768 matrices + 2 x 768 norms) + 768 = 102,144 (.082 %).
    24 layers of Qwen2's q, k, v biases at H = 896, KV width 128: 24 x (896 + 128 + 128) = 27,648."""
    gpt2 = counted(shape("gpt2"), "bitfit")
    assert gpt2.trainable == 102_144
    assert round(100 * gpt2.share, 3) == 0.082
    qwen = shape("qwen2", vocab_size=64, hidden_size=896, intermediate_size=64, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2)
    assert counted(qwen, "bitfit").trainable == 27_648


def test_a10_llama_has_no_bias() -> None:
    """MISSION A10: the llama shape is refused with the count 0 and the option to add zero biases: 30 x (576 + 192 + 192 + 576 + 1536 + 1536 + 576) = 155,520."""
    with pytest.raises(InputError, match=r"0 biases[\s\S]*add_biases: true"):
        counted(p135(), "bitfit")
    assert counted(p135(), "bitfit", add_biases=True).trainable == 155_520


def test_a11_head() -> None:
    """MISSION A11: 576 x 77 + 77 = 44,429."""
    assert counted(p135(), "head", labels=[f"label {number}" for number in range(77)]).trainable == 44_429


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="0 parameters would be trained"):
        account(nn.Linear(2, 2).requires_grad_(False))
