"""Students made of fewer layers: counted, loadable, and what the model is without those layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.conftest import make_tiny

from planish.builders import layer_drop
from planish.errors import InputError


@pytest.mark.slow
def test_z9_three_layers_of_p135(tmp_path: Path) -> None:
    """Z9: P135 less 3 of its 30 layers: 3 * (2 * 576^2 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576) = 3 * 3,540,096 = 10,620,288 fewer, 7.9 % of 134,515,008.

    The weights are zeros on disk: only their number is asked about.
    """
    from safetensors.torch import save_file

    source = tmp_path / "p135"
    source.mkdir()
    kind, wide = torch.float16, {"self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "self_attn.v_proj": (192, 576), "self_attn.o_proj": (576, 576)}
    wide |= {"mlp.gate_proj": (1536, 576), "mlp.up_proj": (1536, 576), "mlp.down_proj": (576, 1536)}
    layer = wide | {"input_layernorm": (576,), "post_attention_layernorm": (576,)}
    tensors = {f"model.layers.{n}.{name}.weight": torch.zeros(shape, dtype=kind) for n in range(30) for name, shape in layer.items()}
    tensors |= {"model.embed_tokens.weight": torch.zeros(49152, 576, dtype=kind), "model.norm.weight": torch.zeros(576, dtype=kind)}
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"num_hidden_layers": 30}), encoding="utf-8")
    made = layer_drop.build(source, tmp_path / "out", drop=3)
    assert made.before == 134_515_008
    assert made.parameters - made.before == -10_620_288
    assert (made.before - made.parameters) / made.before == pytest.approx(0.079, abs=5e-4)
    assert len(made.kept) == 27
    assert {0, 29} <= set(made.kept)


def test_the_copy_is_the_model_without_those_layers(tmp_path: Path) -> None:
    """The same logits, 1e-6, as the source with the layers taken out of its list; it loads as any folder does, tokenizer and all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny(tmp_path / "model", layers=6)
    made = layer_drop.build(tmp_path / "model", tmp_path / "out", drop=2)
    source, copy = (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("model", "out"))
    source.model.layers = torch.nn.ModuleList(source.model.layers[n] for n in made.kept)
    for place, layer in enumerate(source.model.layers):
        layer.self_attn.layer_idx = place
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        assert torch.allclose(copy(ids).logits, source(ids).logits, atol=1e-6)
    assert copy.config.num_hidden_layers == 4
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("good").input_ids == AutoTokenizer.from_pretrained(tmp_path / "model")("good").input_ids


@pytest.mark.parametrize(("layers", "drop"), [(30, 1), (30, 3), (30, 6), (30, 29), (12, 4), (3, 1), (4, 3), (2, 1)])
def test_as_many_go_as_are_asked_and_the_ends_stay(layers: int, drop: int) -> None:
    kept = layer_drop.kept_layers(layers, drop)
    assert len(kept) == layers - drop
    assert kept[0] == 0
    assert kept[-1] == layers - 1 or drop > layers - 2


@pytest.mark.parametrize(("drop", "why"), [(0, "0 of 6"), (6, "6 of 6"), (3, "more than a third")])
def test_too_many_layers_are_refused(drop: int, why: str, tmp_path: Path) -> None:
    make_tiny(tmp_path / "model", layers=6)
    with pytest.raises(InputError, match=why):
        layer_drop.build(tmp_path / "model", tmp_path / "out", drop=drop)
    assert not (tmp_path / "out").exists()
