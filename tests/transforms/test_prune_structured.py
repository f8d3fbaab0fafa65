"""Structured pruning (MISSION Z9): the smaller checkpoint is the larger one with silent units; plain transformers loads it; what no runtime loads is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny
from tests.transforms.conftest import tuned
from torch import Tensor

from planish.errors import InputError, RunFailed
from planish.model import cut_folder
from planish.model.cut_folder import Source, check_loads
from planish.model.safetensors_header import Entry
from planish.model.units import Cut, Units, cut_config, layout, parameters, units_of, whole
from planish.shelf import call
from planish.stages._prune import Removal, cut_of, forecast, prune, to_target
from planish.store.objects import file_hash

IDS = torch.arange(3, 35)[None]
SHAPE = Units(layers=4, groups=2, queries=2, width=12, channels=144, vocabulary=512)
SMOLLM2 = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("four") / "model", layers=4)


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def some_scores(units: Units, seed: int = 0) -> dict[str, Tensor | None]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "layers": torch.rand(units.layers, generator=draw),
        "heads": torch.rand(units.layers, units.groups, generator=draw),
        "channels": torch.rand(units.layers, units.channels, generator=draw),
    }


@pytest.mark.parametrize(("layers", "heads", "channels"), [(1, 0, 0), (0, 1, 0), (0, 0, 50), (2, 1, 33)])
def test_z9_the_pruned_model_is_the_original_with_silent_units(four: Path, tmp_path: Path, layers: int, heads: int, channels: int) -> None:
    """MISSION Z9: logits equal those of the original whose removed units are zeroed (columns of o_proj and down_proj; a layer's both), to 1e-5; the source is as it was."""
    before = {path.name: file_hash(path) for path in four.iterdir()}
    source, removal = Source(four), Removal(layers=layers, heads=heads, channels=channels)
    cut = cut_of(source.units, removal, some_scores(source.units))
    report = prune(source, cut, removal, tmp_path / "pruned")
    silent = loaded(four)
    with torch.no_grad():
        for number, layer in enumerate(silent.model.layers):
            if number not in cut.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
                continue
            at = cut.layers.index(number)
            for group in {*range(source.units.groups)} - {*cut.groups[at]}:
                layer.self_attn.o_proj.weight[:, group * 24 : (group + 1) * 24] = 0  # 2 query heads of 12 read one key-value head
            for channel in {*range(source.units.channels)} - {*cut.channels[at]}:
                layer.mlp.down_proj.weight[:, channel] = 0
    small = loaded(tmp_path / "pruned")
    assert torch.allclose(logits(small), logits(silent), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(small), logits(loaded(four)), atol=1e-3)
    assert sum(value.numel() for value in small.parameters()) == report.after < report.before
    assert {path.name: file_hash(path) for path in four.iterdir()} == before
    assert json.loads((tmp_path / "pruned" / "prune_report.json").read_text())["after"] == report.after


def smollm2() -> dict[str, Entry]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (49152, 576), "model.norm.weight": (576,)}
    for layer in range(30):
        begin = f"model.layers.{layer}."
        shapes |= {f"{begin}self_attn.{part}_proj.weight": (rows, 576) for part, rows in {"q": 576, "k": 192, "v": 192, "o": 576}.items()}
        shapes |= {f"{begin}mlp.gate_proj.weight": (1536, 576), f"{begin}mlp.up_proj.weight": (1536, 576), f"{begin}mlp.down_proj.weight": (576, 1536)}
        shapes |= {f"{begin}input_layernorm.weight": (576,), f"{begin}post_attention_layernorm.weight": (576,)}
    return {name: Entry("BF16", shape, 0) for name, shape in shapes.items()}


def test_z9_ex_three_layers_of_smollm2_135m() -> None:
    """MISSION Z9 Ex: a layer has 2 * 576 * 576 (q, o) + 2 * 192 * 576 (k, v) + 3 * 1,536 * 576 (MLP) + 2 * 576 (norms) = 3,540,096; three are 10,620,288, 7.9 % of 134,515,008."""
    entries = smollm2()
    units = units_of(SMOLLM2, entries, "smollm2")
    before = parameters({name: (entry.dtype, entry.shape) for name, entry in entries.items()})
    cut = cut_of(units, Removal(layers=3), {"layers": None})
    after = parameters(layout(entries, units, cut))
    assert (before, before - after) == (134_515_008, 10_620_288)
    assert round((before - after) / before, 3) == 0.079
    check_loads(cut_config(SMOLLM2, units, cut), layout(entries, units, cut))


def test_scores_choose_and_ties_keep_the_first() -> None:
    """By hand: of (3, 1, 2, 1) without one layer stays 0, 1, 2 (of equal ones the first); of groups (1, 5) stays the second."""
    cut = call("transforms", "prune_layers", "transform", {})(whole(SHAPE), torch.tensor([3.0, 1.0, 2.0, 1.0]))
    assert cut.layers == (0, 1, 2)
    assert call("transforms", "prune_layers", "transform", {"remove": 2})(whole(SHAPE), None).layers == (0, 1)
    groups = call("transforms", "prune_heads", "transform", {})(cut, torch.tensor([[1.0, 5.0], [5.0, 1.0], [1.0, 1.0], [9.0, 9.0]])).groups
    assert groups == ((1,), (0,), (0,))
    scores = torch.arange(144.0).repeat(4, 1)
    assert call("transforms", "prune_channels", "transform", {"remove": 140})(cut, scores).channels == ((140, 141, 142, 143),) * 3


@pytest.mark.parametrize(("technique", "count"), [("prune_layers", 4), ("prune_heads", 2), ("prune_channels", 144), ("prune_layers", -1), ("prune_heads", -1)])
def test_too_many_are_refused(technique: str, count: int) -> None:
    scores = {"prune_layers": torch.zeros(4), "prune_heads": torch.zeros(4, 2), "prune_channels": torch.zeros(4, 144)}[technique]
    with pytest.raises(InputError, match="cannot be removed"):
        call("transforms", technique, "transform", {"remove": count})(whole(SHAPE), scores)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        call("transforms", "prune_heads", "transform", {})(whole(SHAPE), torch.full((4, 2), torch.nan))


def test_uneven_layers_are_refused() -> None:
    """MISSION Z9 Bad: one layer with fewer channels than the next is a shape that no configuration can say."""
    even = whole(SHAPE)
    with pytest.raises(InputError, match="different numbers"):
        cut_config(SMOLLM2, SHAPE, Cut(even.layers, even.groups, (even.channels[0][:-1], *even.channels[1:])))


def test_shapes_that_transformers_refuses_are_refused(tmp_path: Path) -> None:
    """MISSION Z9 Bad: llama wants a hidden size that its heads divide: 10 of 40 do, 9 do not."""
    source = Source(make_tiny(tmp_path / "model", hidden=40, heads=10, kv_heads=10))
    with pytest.raises(InputError, match="transformers refuses"):
        forecast(source, cut_of(source.units, Removal(heads=1), some_scores(source.units)), Removal(heads=1))


def test_a_size_target_takes_the_fewest_units(four: Path) -> None:
    """A channel of all 4 layers is 4 * 3 * 48 = 576 parameters: 10,000 fewer need 18 channels (10,368), 17 are 9,792."""
    source = Source(four)
    total = sum(entry.size for entry in source.entries.values())
    assert to_target(source, total - 10_000, "channels", Removal()).channels == 18
    assert to_target(source, total - 1, "layers", Removal(by="influence")) == Removal(layers=1, by="influence")
    with pytest.raises(InputError, match="impossible"):
        to_target(source, 1000, "channels", Removal())
    with pytest.raises(InputError, match="already"):
        to_target(source, total, "channels", Removal())


def test_a_target_leaves_channels_in_whole_blocks(tmp_path: Path) -> None:
    """4 layers of 192 channels, 4 * 3 * 64 = 768 parameters a channel: 10,000 fewer need 14, which leave 178; 160 are five blocks of 32. 192 less 170 are 22, no block at all:
    as asked. 144 channels, as above, were no whole blocks before."""
    source = Source(make_tiny(tmp_path / "model", hidden=64, layers=4))
    total = sum(entry.size for entry in source.entries.values())
    for less, removed in ((10_000, 32), (768 * 32, 32), (768 * 33, 64), (768 * 170, 170)):
        assert to_target(source, total - less, "channels", Removal()).channels == removed
    done = forecast(source, cut_of(source.units, Removal(channels=32), some_scores(source.units)), Removal(channels=32))
    assert not [said for said in done.warnings if "multiple" in said]


def test_a_trimmed_vocabulary_counts_towards_a_target(four: Path) -> None:
    """512 - 300 ids of 48 values are 10,176 parameters: of 12,000 they leave 1,824, which is 4 channels of 576; 10,000 are met by them alone."""
    source = Source(four)
    total = sum(entry.size for entry in source.entries.values())
    assert to_target(source, total - 12_000, "channels", Removal(vocabulary=300)) == Removal(channels=4, vocabulary=300)
    with pytest.raises(InputError, match="already without channels"):
        to_target(source, total - 10_000, "channels", Removal(vocabulary=300))


def test_a_fifth_of_smollm2_with_the_vocabulary_first() -> None:
    """40,960 ids of 576 are 23,592,960 parameters (17.5 %); of 20 %, 26,903,002, they leave 3,310,042, and a channel of 30 layers is 30 * 3 * 576 = 51,840: 64 of them."""
    entries = smollm2()
    source: Any = SimpleNamespace(entries=entries, units=units_of(SMOLLM2, entries, "smollm2"))
    assert to_target(source, 134_515_008 * 80 // 100, "channels", Removal(vocabulary=8192)) == Removal(channels=64, vocabulary=8192)


def test_more_than_a_third_warns_and_nothing_is_refused(four: Path) -> None:
    source = Source(four)
    much, little = Removal(layers=3), Removal(layers=1)
    assert "more than a third" in forecast(source, cut_of(source.units, much, {"layers": None}), much).warnings[0]
    assert not forecast(source, cut_of(source.units, little, {"layers": None}), little).warnings
    with pytest.raises(InputError, match="nothing would be removed"):
        forecast(source, whole(source.units), Removal())


def test_nan_weights_are_refused_and_nothing_is_left(four: Path, tmp_path: Path) -> None:
    def poison(name: str, tensor: Tensor) -> Tensor:
        return tensor.index_fill(0, torch.tensor([0]), torch.nan) if name.endswith("1.mlp.up_proj.weight") else tensor

    source = Source(tuned(four, tmp_path / "bad", 1, move=poison))
    with pytest.raises(InputError, match="NaN"):
        prune(source, cut_of(source.units, Removal(layers=1), {"layers": None}), Removal(layers=1), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_full_disk_leaves_nothing(four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(cut_folder, "write_tensors", full)
    source = Source(four)
    with pytest.raises(RunFailed, match="no space"):
        prune(source, cut_of(source.units, Removal(layers=1), {"layers": None}), Removal(layers=1), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["", "model/out"])
def test_the_output_is_a_new_folder_elsewhere(tiny: Path, tmp_path: Path, place: str) -> None:
    source = Source(tuned(tiny, tmp_path / "model", 1))
    with pytest.raises(InputError, match=r"exists|inside"):
        prune(source, whole(source.units), Removal(), tmp_path / place if place else tmp_path)


def test_what_is_no_plain_decoder_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Unknown tensors, wrong counts and remote code, all named at once."""
    folder = tuned(tiny, tmp_path / "odd", 1, auto_map={"AutoModel": "x.Y"}, intermediate_size=99)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.layers.0.mlp.experts.0.w": torch.zeros(2, 2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError) as refused:
        Source(folder)
    assert {"auto_map", "does not know", "its units 99"} <= {part for part in ("auto_map", "does not know", "its units 99") if part in str(refused.value)}


def test_layers_listed_by_number_are_dropped_with_them() -> None:
    """A list with one entry a layer keeps the entries of kept layers; a rule by layer number without such a list is refused."""
    config = SMOLLM2 | {"num_hidden_layers": 4, "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]}
    cut = call("transforms", "prune_layers", "transform", {})(whole(SHAPE), torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert cut_config(config, SHAPE, cut)["layer_types"] == ["sliding_attention", "full_attention", "full_attention"]
    with pytest.raises(InputError, match="by their number"):
        cut_config(SMOLLM2 | {"sliding_window_pattern": 6}, SHAPE, cut)


def test_untied_heads_and_biases_follow(tmp_path: Path) -> None:
    """An output matrix of its own is kept whole, biases of q, k, v are cut with their heads."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False
    )
    model = Qwen2ForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    model.save_pretrained(tmp_path / "qwen")
    source = Source(tmp_path / "qwen")
    prune(source, cut_of(source.units, Removal(heads=1), some_scores(source.units)), Removal(heads=1), tmp_path / "out")
    small = loaded(tmp_path / "out")
    assert small.model.layers[0].self_attn.q_proj.bias.shape == (16,)
    assert small.lm_head.weight.shape == (64, 32)
