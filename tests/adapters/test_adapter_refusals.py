"""Options and bases that do not fit are refused, all at once, with what would fit (MISSION A, Bad)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.shelf_of_adapters import attached, tuned
from tests.conftest import make_tiny

from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.described import rate_of, warnings_of
from planish.model.load import load
from planish.model.low_rank import low_rank_layers
from planish.model.trained import load_adapter, open_trained, save

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("lora", {"targets": ["q_prjo"]}, r'no layer of the model is "q_prjo"[\s\S]*did you mean q_proj'),
    ("lora", {"targets": ["query", "valve"]}, r'is "query"[\s\S]*is "valve"'),
    ("lora", {"targets": "model.layers.*nothing"}, "its linear layers are: q_proj, k_proj"),
    ("lora", {"targets": "(q_proj"}, "is no regular expression"),
    ("lora", {"targets": []}, "its linear layers are"),
    ("lora", {"layers": "1-9"}, "the model has layers 0 to 1"),
    ("lora", {"layers": "top"}, "is no range"),
    ("lora", {"layers": []}, "names no layer"),
    ("lora", {"r": 25}, r"rank 25 is larger than the smaller side of model.layers.0.self_attn.k_proj, 24"),
    ("lora", {"r": 0}, "give a rank of at least 1"),
    ("lora", {"dropout": 1.0}, "adapter.dropout"),
    ("lora", {"ranks": {"q_prj": 2}}, r'names no layer that has an adapter[\s\S]*did you mean "q_proj"'),
    ("lora", {"init": "loftq"}, "starts from the error of a 4-bit base"),
    ("ia3", {"targets": ["kproj"]}, "did you mean k_proj"),
    ("bottleneck", {"middle": 48}, "that is no bottleneck"),
    ("head", {"labels": ["a"]}, "names 1 classes"),
    ("head", {"labels": ["a", "b", "a"]}, "a label twice"),
    ("head", {"kind": "reward"}, "no labels"),
    ("head", {"unfreeze": 3}, "the model has 2 layers"),
    ("prompt", {"tokens": 256}, "of a context of 256"),
    ("prompt", {"tokens": 0}, "give 1 to 255"),
    ("prompt", {"init_text": ""}, "holds no token"),
    ("prefix", {"tokens": 65}, r"of a context of 256[\s\S]*1 to 64"),
]


@pytest.mark.parametrize(
    ("name", "options", "message"), REFUSED, ids=[f"{name}-{next(iter(options))}-{index}" for index, (name, options, _) in enumerate(REFUSED)]
)
def test_refused(biased: Path, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attached(biased, name, **options)


def test_everything_wrong_is_said_at_once(biased: Path) -> None:
    with pytest.raises(InputError) as refused:
        attached(biased, "lora", r=30, dropout=2.0, ranks={"nothing": 0})
    assert {problem.where for problem in refused.value.problems} == {"adapter.r", "adapter.dropout", "adapter.ranks.nothing"}


def test_ia3_without_a_feed_forward_part_is_refused() -> None:
    """MISSION A6: no FFN match."""
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    from planish.adapters import ia3

    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2))
    for layer in model.model.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(InputError, match="output of the feed-forward part; the model has q_proj, k_proj"):
        ia3.attach(model)


def test_dora_refuses_a_row_without_direction(biased: Path) -> None:
    """MISSION A4: zero row norm."""
    from planish.adapters import dora

    model: Any = load(biased, "fp32")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = 0
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj: has a row of zeros"):
        dora.attach(model)


def test_another_architecture_is_refused_with_the_difference(tiny: Path, tmp_path: Path) -> None:
    save(tuned(tiny, "lora"), Chat.load(tiny), tmp_path / "run", tiny)
    other = make_tiny(tmp_path / "other", layers=3)
    with pytest.raises(InputError, match=r"was trained on the base[\s\S]*another architecture: num_hidden_layers 2 there, 3 here"):
        open_trained(other, tmp_path / "run", "fp32")


def test_other_weights_of_the_same_architecture_are_refused(tiny: Path, tmp_path: Path) -> None:
    save(tuned(tiny, "lora"), Chat.load(tiny), tmp_path / "run", tiny)
    other = make_tiny(tmp_path / "other")
    model: Any = load(other, "fp32")
    with torch.no_grad():
        model.model.norm.weight.add_(0.5)
    model.save_pretrained(other)
    with pytest.raises(InputError, match="the same architecture with other weights"):
        open_trained(other, tmp_path / "run", "fp32")


def test_an_adapter_of_another_shape_is_refused_with_every_tensor(biased: Path, tmp_path: Path) -> None:
    """Nothing is taken over where a part does not fit."""
    save(tuned(biased, "lora", r=4, targets=["q_proj"]), Chat.load(biased), tmp_path, biased)
    model = attached(biased, "lora", r=2, targets=["q_proj", "v_proj"])
    with pytest.raises(InputError) as refused:
        load_adapter(model, tmp_path / "adapter")
    whys = [problem.why for problem in refused.value.problems]
    assert whys.count("is missing") == 4
    assert sum("and the model has" in why for why in whys) == 4


def test_a_folder_that_lacks_a_file_is_refused(biased: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    with pytest.raises(InputError, match=r"adapter_config\.json: is missing[\s\S]*adapter_model\.safetensors: is missing"):
        open_trained(biased, tmp_path, "fp32")


def test_layers_and_ranks(biased: Path) -> None:
    """Layer 1 only, by range, list and from the end; a pattern of its own rank with alpha 2 r; a regular expression with a layer range."""
    for which in ("1", "1-1", [1], [-1]):
        layers = low_rank_layers(attached(biased, "lora", layers=which))
        assert len(layers) == 7
        assert all(".1." in name for name in layers)
    model = attached(biased, "lora", r=4, targets=["q_proj", "v_proj"], ranks={r"layers\.0\.self_attn\.q_proj": 8})
    found = {name: (module.r["default"], module.scaling["default"]) for name, module in low_rank_layers(model).items()}
    assert found.pop("model.layers.0.self_attn.q_proj") == (8, 2.0)
    assert set(found.values()) == {(4, 2.0)}
    assert list(low_rank_layers(attached(biased, "lora", targets=r".*mlp\.(up|down)_proj", layers=[0]))) == [
        "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj",
    ]


def test_a_scale_out_of_range_and_dropout_warn(biased: Path) -> None:
    """MISSION A3: alpha / r outside .25 to 8 warns; A2: dropout says that it is shared; A7: what virtual tokens leave of the context is shown."""
    assert warnings_of(attached(biased, "lora")) == ()
    (scale,) = warnings_of(attached(biased, "lora", r=4, alpha=64))
    assert "alpha / r is 16" in scale
    (shared,) = warnings_of(attached(biased, "lora", dropout=0.1))
    assert "once per shared prefix" in shared
    assert warnings_of(attached(biased, "prompt", tokens=20)) == ("20 virtual tokens leave 236 of 256 places of the context",)


def test_lora_plus_marks_b(biased: Path) -> None:
    """LoRA+ (arXiv 2402.12354): B learns at 16 times the rate of A."""
    model = attached(biased, "lora", learning_rate_ratio=16.0)
    rates = {name.split(".")[-3]: rate_of(model, name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert rates == {"lora_A": 1.0, "lora_B": 16.0}
    with pytest.raises(InputError, match="LoRA\\+ takes 16"):
        attached(biased, "lora", learning_rate_ratio=0.0)
