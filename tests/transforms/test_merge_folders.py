"""Merges from folder to folder (MISSION W1 to W6): right tensors, loadable models, adapters as deltas, parents that do not fit refused with every reason, nothing half written."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.transforms.conftest import tuned
from torch import Tensor

from planish.errors import InputError, RunFailed
from planish.merge import forecast, load, merge_models, sweep
from planish.model import merge_sources, tensor_stream
from planish.model.bundled import identity
from planish.model.merging import read_spec
from planish.shelf import call
from planish.stages import _merge
from planish.stages._plain import Plain
from planish.stages._variants import whole
from planish.store.objects import file_hash

METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "slerp": {"t": 0.3},
    "task_arithmetic": {"lambda": 0.8},
    "ties": {},
    "dare": {"seed": 3},
    "dare_ties": {"seed": 3},
}


def spec(method: str, **more: Any) -> Any:
    base = {"base": "base"} if method not in ("linear", "soup", "slerp", "passthrough") else {}
    return read_spec({"method": method, "models": [{"path": "a"}, {"path": "b"}]} | base | more)


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_the_method_on_every_tensor(method: str, family: Path, tmp_path: Path) -> None:
    """Each tensor of the folder is the technique's own `transform` of the parents' tensors; the parents are as they were."""
    before = hashes(family)
    report = merge_models(spec(method, **METHODS[method]), tmp_path / "out", relative_to=family)
    assert hashes(family) == before
    base, a, b = (weights(family / name) for name in ("base", "a", "b"))
    options = {key.replace("lambda", "lambda_"): given for key, given in METHODS[method].items()} | ({"ties": True} if method == "dare_ties" else {})
    technique = "soup" if method == "linear" else method.removesuffix("_ties")
    merged = weights(tmp_path / "out")
    assert merged.keys() == base.keys()
    for name, tensor in merged.items():
        if technique == "dare":
            right = torch.cat(list(call("transforms", "dare", "stream", options)(_named(name, base[name], [a[name], b[name]])))).reshape(tensor.shape)
        else:
            right = call("transforms", technique, "transform", options)(base[name], [a[name], b[name]])
        assert torch.allclose(tensor, right, atol=1e-6, rtol=0), name
    assert 0 < report.changed <= 1
    assert report.bytes == sum(tensor.numel() * 4 for tensor in merged.values())
    assert report.peak > 0


def _named(name: str, base: Tensor, models: list[Tensor]) -> tensor_stream.Pieces:
    return tensor_stream.of_whole(base, models, name)


def test_w6_the_report_names_parents_checks_bytes_and_peak(family: Path, tmp_path: Path) -> None:
    """MISSION W6: merge_report.json holds parents with their hashes, every check, bytes and peak."""
    merge_models(spec("ties"), tmp_path / "out", relative_to=family)
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text(encoding="utf-8"))
    assert [(parent["name"], parent["role"]) for parent in report["parents"]] == [("base", "base"), ("a", "model"), ("b", "model")]
    assert report["parents"][1]["identity"] == identity(family / "a")
    checks = [one["check"] for one in report["checks"]]
    assert checks == ["architecture and tying", "shape", "tokenizer and chat template", "base", "precision", "ancestor of a", "ancestor of b"]


def test_the_result_loads_and_answers(family: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merge_models(spec("task_arithmetic"), tmp_path / "out", relative_to=family)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("the phone is good", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()


def test_same_inputs_give_identical_weights(family: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        merge_models(spec("dare_ties", seed=11), tmp_path / name, relative_to=family)
    assert file_hash(tmp_path / "one" / "model.safetensors") == file_hash(tmp_path / "two" / "model.safetensors")


def test_w5_seed_and_defaults_are_in_the_report(family: Path, tmp_path: Path) -> None:
    """MISSION W5, R-6: what a merge file leaves out is stored as it was taken: the seed, lambda, and every model's density."""
    merge_models(spec("dare_ties"), tmp_path / "out", relative_to=family)
    told = json.loads((tmp_path / "out" / "merge_report.json").read_text(encoding="utf-8"))["options"]
    assert told | {"models": []} == {"seed": 0, "lambda": 1.0, "ties": True, "normalize": False, "models": []}
    assert told["models"] == [{"path": "a", "density": 0.5}, {"path": "b", "density": 0.5}]


def test_pieces_and_shards_change_no_value(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of up to 24,576 values in pieces of 1,000, in files of 50,000 bytes: the same values as at once."""
    merge_models(spec("ties"), tmp_path / "whole", relative_to=family)
    monkeypatch.setattr(_merge, "PIECE", 1000)
    monkeypatch.setattr(tensor_stream.Pieces.__init__, "__defaults__", (1000,))
    merge_models(spec("ties"), tmp_path / "pieces", relative_to=family, shard=50_000)
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 2
    whole, pieces = weights(tmp_path / "whole"), weights(tmp_path / "pieces")
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def adapter(folder: Path, base: Path, seed: int) -> Path:
    """A LoRA of rank 2 on q_proj and embed-free layers, written as PEFT writes it."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in weights(base).items() if name.endswith(("q_proj.weight", "down_proj.weight"))}
    tensors = {}
    for name, (out, into) in shapes.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn((2, into), generator=draw) * 0.1
        tensors[f"{stem}.lora_B.weight"] = torch.randn((out, 2), generator=draw) * 0.1
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": f"sha256:{identity(base)}", "target_modules": ["q_proj", "down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_w6_adapters_are_merged_as_deltas(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION W6: two adapters and a full model by task arithmetic: base + B1 A1 alpha/r + B2 A2 alpha/r + (a - base), alpha/r = 4/2."""
    adapter(family / "x", family / "base", 1)
    adapter(family / "y", family / "base", 2)
    monkeypatch.setattr(tensor_stream.Pieces.__init__, "__defaults__", (1001,))  # pieces that end inside a row
    monkeypatch.setattr(_merge, "PIECE", 1001)
    merge_models(spec("task_arithmetic", models=[{"path": "x"}, {"path": "y"}, {"path": "a"}]), tmp_path / "out", relative_to=family)
    base, a, merged = weights(family / "base"), weights(family / "a"), weights(tmp_path / "out")
    for name, tensor in merged.items():
        right = a[name].clone()
        for one in ("x", "y"):
            low = weights(family / one)
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{stem}.lora_A.weight" in low:
                right += 2 * low[f"{stem}.lora_B.weight"] @ low[f"{stem}.lora_A.weight"]
        assert torch.allclose(tensor, right, atol=1e-6), name
    assert base.keys() == merged.keys()


def test_mergekit_adapters_without_a_base_model_are_averaged_on_their_own(family: Path, tmp_path: Path) -> None:
    """`linear` of base+x and base+y, weights 1 and 3: base + (B1 A1 + 3 B2 A2) / 4 alpha/r, alpha/r = 4/2."""
    adapter(family / "x", family / "base", 1)
    adapter(family / "y", family / "base", 2)
    models = [{"model": "base+x", "parameters": {"weight": 1}}, {"model": "base+y", "parameters": {"weight": 3}}]
    (family / "merge.yaml").write_text(json.dumps({"merge_method": "linear", "models": models}), encoding="utf-8")
    read, _ = load(family / "merge.yaml")
    merge_models(read, tmp_path / "out", relative_to=family)
    merged, base, low = weights(tmp_path / "out"), weights(family / "base"), [weights(family / one) for one in ("x", "y")]
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    first, second = (one[f"{stem}.lora_B.weight"] @ one[f"{stem}.lora_A.weight"] for one in low)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(merged[name], base[name] + 2 * (first + 3 * second) / 4, atol=1e-6)


def test_a_stack_of_adapters_puts_each_difference_on_its_own_layer(family: Path, tmp_path: Path) -> None:
    """Layer 1 of base+x below layer 0 of it: what goes under an adapter's difference is the base's layer that it was trained on, not the one of the result's number."""
    adapter(family / "x", family / "base", 1)
    slices = [{"sources": [{"path": "x", "layers": [layer, layer + 1]}]} for layer in (1, 0)]
    merge_models(read_spec({"method": "passthrough", "base": "base", "slices": slices}), tmp_path / "out", relative_to=family)
    merged, base, low = weights(tmp_path / "out"), weights(family / "base"), weights(family / "x")
    for made, layer in enumerate((1, 0)):
        module = "layers.{}.self_attn.q_proj"
        stem = f"base_model.model.model.{module.format(layer)}"
        right = base[f"model.{module.format(layer)}.weight"] + 2 * low[f"{stem}.lora_B.weight"] @ low[f"{stem}.lora_A.weight"]
        assert torch.allclose(merged[f"model.{module.format(made)}.weight"], right, atol=1e-6)


def test_a_stack_over_a_base_differs_from_the_base_layers_that_are_named(tiny: Path, tmp_path: Path) -> None:
    """Base layers all 1 and 5, a's 2 and 9, half of the difference. Layer 0 twice: 1.5 and 1.5; then layer 1: 5 + 4/2 = 7; a's layer 1 over the base's layer 0: 1 + 8/2 = 5.

    As mergekit 0.1.4 gives them, where the base stands among a slice's sources."""
    for name, values in (("base", (1.0, 5.0)), ("a", (2.0, 9.0))):
        tuned(tiny, tmp_path / name, 1, move=lambda where, tensor, values=values: torch.full_like(tensor, values["layers.1" in where]))  # type: ignore[misc]
    pairs = [([0, 1], [0, 1]), ([0, 1], [0, 1]), ([1, 2], [1, 2]), ([0, 1], [1, 2])]
    slices = [{"sources": [{"model": "base", "layer_range": below}, {"model": "a", "layer_range": own}]} for below, own in pairs]
    given = {"merge_method": "task_arithmetic", "base_model": "base", "slices": slices, "parameters": {"weight": 0.5}}
    (tmp_path / "merge.yaml").write_text(json.dumps(given), encoding="utf-8")
    merge_models(load(tmp_path / "merge.yaml")[0], tmp_path / "out", relative_to=tmp_path)
    found = _layer_weights(tmp_path / "out")
    assert [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(4)] == pytest.approx([1.5, 1.5, 7.0, 5.0])
    slices[0]["sources"][0]["layer_range"] = [2, 3]
    (tmp_path / "merge.yaml").write_text(json.dumps(given), encoding="utf-8")
    with pytest.raises(InputError, match="base has 2 layers, not 3"):
        merge_models(load(tmp_path / "merge.yaml")[0], tmp_path / "past", relative_to=tmp_path)


def test_an_adapter_of_another_base_is_refused(family: Path, tmp_path: Path) -> None:
    adapter(family / "x", family / "a", 1)
    with pytest.raises(InputError, match="was trained on the base sha256:"):
        merge_models(spec("ties", models=[{"path": "x"}, {"path": "b"}]), tmp_path / "out", relative_to=family)
    with pytest.raises(InputError, match="is an adapter, and no sound base"):
        merge_models(spec("linear", models=[{"path": "x"}, {"path": "b"}]), tmp_path / "out", relative_to=family)


def _layer_weights(folder: Path) -> dict[str, float]:
    return {name: float(tensor.mean()) for name, tensor in weights(folder).items()}


def constant(value: float) -> Callable[[str, Tensor], Tensor]:
    return lambda _, tensor: torch.full_like(tensor, value)


def test_weights_differ_by_layer_and_by_tensor(tiny: Path, tmp_path: Path) -> None:
    """Parents of all 1 and all 3. A weight drawn from 0 to 1 over two layers gives b 0 in layer 0 and 1 in layer 1, where a has 1: means 1 and 2.
    A filter gives down_proj 3: (1 + 9) / 4 = 2.5. What is in no layer takes the list's first."""
    tuned(tiny, tmp_path / "a", 1, move=constant(1.0))
    tuned(tiny, tmp_path / "b", 1, move=constant(3.0))
    by_layer = read_spec({"method": "linear", "models": [{"path": "a"}, {"path": "b", "weight": [0.0, 1.0]}]})
    merge_models(by_layer, tmp_path / "layers", relative_to=tmp_path)
    found = _layer_weights(tmp_path / "layers")
    assert [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in (0, 1)] == pytest.approx([1.0, 2.0])
    assert found["model.embed_tokens.weight"] == pytest.approx(1.0)
    filtered = [{"filter": "down_proj", "value": 3.0}, {"value": 1.0}]
    merge_models(read_spec({"method": "linear", "models": [{"path": "a"}, {"path": "b", "weight": filtered}]}), tmp_path / "filtered", relative_to=tmp_path)
    found = _layer_weights(tmp_path / "filtered")
    assert [found[f"model.layers.0.mlp.{part}.weight"] for part in ("down_proj", "up_proj")] == pytest.approx([2.5, 2.0])


def test_passthrough_stacks_layers(family: Path, tmp_path: Path) -> None:
    """Layers 0-1 of a, then layer 1 of b: three layers, the configuration says so, and the model loads."""
    from transformers import AutoModelForCausalLM

    slices = [{"sources": [{"path": "a", "layers": [0, 2]}]}, {"sources": [{"path": "b", "layers": [1, 2]}]}]
    merge_models(read_spec({"method": "passthrough", "slices": slices}), tmp_path / "out", relative_to=family)
    merged, a, b = weights(tmp_path / "out"), weights(family / "a"), weights(family / "b")
    for name in ("mlp.up_proj.weight", "input_layernorm.weight"):
        assert torch.equal(merged[f"model.layers.1.{name}"], a[f"model.layers.1.{name}"])
        assert torch.equal(merged[f"model.layers.2.{name}"], b[f"model.layers.1.{name}"])
    assert torch.equal(merged["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(merged["model.norm.weight"], b["model.norm.weight"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3


def test_a_slice_past_the_last_layer_is_refused(family: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 layers, not 3"):
        merge_models(read_spec({"method": "passthrough", "slices": [{"sources": [{"path": "a", "layers": [0, 3]}]}]}), tmp_path / "out", relative_to=family)


def drop(part: str) -> Callable[[str, Tensor], Tensor]:
    return lambda name, tensor: tensor[:-1] if name.endswith(part) else tensor


def nan(part: str) -> Callable[[str, Tensor], Tensor]:
    def move(name: str, tensor: Tensor) -> Tensor:
        if name.endswith(part):
            tensor = tensor.clone()
            tensor.view(-1)[7] = float("nan")
        return tensor

    return move


def test_w6_a_parent_of_another_shape_is_refused(family: Path, tmp_path: Path) -> None:
    tuned(family / "base", family / "c", 3, move=drop("0.mlp.up_proj.weight"))
    with pytest.raises(InputError, match=r"0\.mlp\.up_proj\.weight: has the shape \(143, 48\), the others \(144, 48\)"):
        merge_models(spec("ties", models=[{"path": "a"}, {"path": "c"}]), tmp_path / "out", relative_to=family)


def test_w6_another_tokenizer_or_tying_is_refused_with_both_reasons(family: Path, tmp_path: Path) -> None:
    """MISSION W6: one token renamed, and the output matrix untied: both are named at once."""
    tuned(family / "base", family / "c", 3, tie_word_embeddings=False)
    path = family / "c" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    first, second = list(vocab)[40:42]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        merge_models(spec("ties", models=[{"path": "a"}, {"path": "c"}]), tmp_path / "out", relative_to=family)
    text = str(refused.value)
    assert "another tokenizer" in text
    assert "tie_word_embeddings" in text
    assert not (tmp_path / "out").exists()


def configured(folder: Path, **keys: Any) -> None:
    """Keys of config.json changed; None takes one out."""
    read = json.loads((folder / "config.json").read_text(encoding="utf-8")) | keys
    (folder / "config.json").write_text(json.dumps({key: value for key, value in read.items() if value is not None}), encoding="utf-8")


def test_w6_a_configuration_under_which_weights_mean_something_else_is_refused(family: Path, tmp_path: Path) -> None:
    """Activation, the norm's epsilon and the turning of positions change no shape and every answer. The older spelling of the same turning is the same."""
    configured(family / "b", rope_parameters=None, rope_theta=10000, rope_scaling=None)
    merge_models(spec("ties"), tmp_path / "older", relative_to=family)
    configured(family / "b", rope_theta=500000.0, hidden_act="gelu", rms_norm_eps=1e-5)
    with pytest.raises(InputError) as refused:
        merge_models(spec("ties"), tmp_path / "out", relative_to=family)
    assert {problem.where.rpartition(" ")[2] for problem in refused.value.problems} == {"rope", "hidden_act", "rms_norm_eps"}
    assert not (tmp_path / "out").exists()


def test_w6_parents_of_two_chat_templates_are_refused(family: Path, tmp_path: Path) -> None:
    """One that has none, or has the same with white space around it, merges; one that was tuned to read another text does not."""
    template = family / "b" / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(f"{text}\n", encoding="utf-8")
    merge_models(spec("ties"), tmp_path / "same", relative_to=family)
    template.unlink()
    merge_models(spec("ties"), tmp_path / "none", relative_to=family)
    template.write_text(text.replace("<|im_start|>", "[INST]"), encoding="utf-8")
    with pytest.raises(InputError, match="is another chat template"):
        merge_models(spec("ties"), tmp_path / "out", relative_to=family)


def test_what_a_parents_configuration_says_is_no_traceback(family: Path, tmp_path: Path) -> None:
    configured(family / "b", num_hidden_layers="two")
    with pytest.raises(InputError, match="is 'two' and no number of layers"):
        merge_models(spec("ties"), tmp_path / "out", relative_to=family)


def test_a_parent_that_is_nowhere_is_named_with_every_other(family: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        merge_models(spec("ties", base="smollm2-135m-instrukt", models=[{"path": "a"}, {"path": "nowhere"}]), tmp_path / "out", relative_to=family)
    assert [problem.where for problem in refused.value.problems] == ["smollm2-135m-instrukt", "nowhere"]
    assert 'did you mean "smollm2-135m-instruct"' in refused.value.problems[0].fix


def test_a_bundled_model_is_a_parent_by_its_name(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a recipe; a folder of that name wins."""
    monkeypatch.setattr(merge_sources.bundled, "locate", lambda name: family / "base")
    made = merge_models(spec("ties", base="smollm2-135m-instruct"), tmp_path / "out", relative_to=family)
    assert next(parent for parent in made.parents if parent.role == "base").identity == identity(family / "base")


def test_a_dry_run_says_what_it_sees_of_nan(family: Path) -> None:
    """The piece that is timed is looked at, too."""
    tuned(family / "base", family / "c", 3, move=nan("embed_tokens.weight"))
    with pytest.raises(InputError, match="holds NaN"):
        forecast(spec("ties", models=[{"path": "a"}, {"path": "c"}]), family)


@pytest.mark.parametrize(("second", "why"), [("./a", "is the same folder as a"), ("link", "is the same folder as a"), ("x/../base", "is the base")])
def test_one_model_under_two_names_is_refused(second: str, why: str, family: Path, tmp_path: Path) -> None:
    (family / "link").symlink_to("a")
    (family / "x").mkdir()
    with pytest.raises(InputError, match=why):
        merge_models(spec("ties", models=[{"path": "a"}, {"path": second}]), tmp_path / "out", relative_to=family)


def test_w6_a_parent_that_names_another_base_is_refused(family: Path, tmp_path: Path) -> None:
    (family / "b" / "base.json").write_text(json.dumps({"base": "sha256:" + "0" * 64}), encoding="utf-8")
    with pytest.raises(InputError, match="was tuned from sha256:0000"):
        merge_models(spec("ties"), tmp_path / "out", relative_to=family)
    (family / "b" / "base.json").write_text(json.dumps({"base": f"sha256:{identity(family / 'base')}"}), encoding="utf-8")
    merge_models(spec("ties"), tmp_path / "out", relative_to=family)


@pytest.mark.parametrize("method", ["ties", "linear"])
def test_w6_a_base_that_is_not_the_ancestor_is_noise(method: str, family: Path, tmp_path: Path) -> None:
    """MISSION W6, Not: unrelated bases. Weights drawn anew have a cosine of about 0 with the base's: the difference is no task."""
    draw = torch.Generator().manual_seed(9)
    tuned(family / "base", family / "c", 3, move=lambda _, tensor: 0.2 * torch.randn(tensor.shape, generator=draw))
    with pytest.raises(InputError, match="the differences are noise"):
        merge_models(spec(method, models=[{"path": "a"}, {"path": "c"}]), tmp_path / "out", relative_to=family)


def test_nan_weights_are_refused_wherever_they_are(family: Path, tmp_path: Path) -> None:
    """One NaN in a tensor of each of two parents: both tensors are named, and nothing is left."""
    tuned(family / "base", family / "c", 3, move=nan("1.mlp.up_proj.weight"))
    tuned(family / "base", family / "d", 4, move=nan("0.mlp.up_proj.weight"))
    for method in ("linear", "ties", "slerp"):
        with pytest.raises(InputError) as refused:
            merge_models(spec(method, models=[{"path": "c"}, {"path": "d"}]), tmp_path / "out", relative_to=family)
        assert sorted(problem.where.rpartition(": ")[2] for problem in refused.value.problems) == [
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.1.mlp.up_proj.weight",
        ]
        assert not list(tmp_path.glob("*out*"))


def test_a_parent_coarser_than_the_base_is_refused(family: Path, tmp_path: Path) -> None:
    """bf16 rounds by up to 1/512 of a value: as much as many a tuning."""
    tuned(family / "base", family / "c", 3, move=lambda _, tensor: tensor.bfloat16())
    with pytest.raises(InputError, match="mostly rounding"):
        merge_models(spec("ties", models=[{"path": "a"}, {"path": "c"}]), tmp_path / "out", relative_to=family)


def test_a_merge_that_changes_nothing_is_an_error(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "base", family / "same")
    with pytest.raises(RunFailed, match=r"not one of \d+ values differs"):
        merge_models(spec("task_arithmetic", models=[{"path": "same"}]), tmp_path / "out", relative_to=family)
    assert not list(tmp_path.glob("*out*"))


def test_dtype_is_written_and_said(family: Path, tmp_path: Path) -> None:
    merge_models(spec("linear", dtype="bfloat16"), tmp_path / "out", relative_to=family)
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_in_the_middle_leaves_nothing(
    failure: BaseException, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tenth write fails."""
    real, count = tensor_stream.os.pwrite, [0]

    def write(handle: int, data: Any, at: int) -> int:
        count[0] += 1
        if count[0] == 10:
            raise failure
        return real(handle, data, at)

    monkeypatch.setattr(tensor_stream.os, "pwrite", write)
    before = hashes(family)
    with pytest.raises(RunFailed if isinstance(failure, OSError) else KeyboardInterrupt):
        merge_models(spec("ties"), tmp_path / "out", relative_to=family)
    assert hashes(family) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["family"]


def test_an_existing_or_inner_folder_is_refused(family: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        merge_models(spec("ties"), family / "a", relative_to=family)
    with pytest.raises(InputError, match="never changed"):
        merge_models(spec("ties"), family / "a" / "merged", relative_to=family)


def test_problems_of_all_parents_come_at_once(family: Path, tmp_path: Path) -> None:
    (family / "a" / "model.safetensors").write_bytes(b"\0" * 4)
    (family / "b" / "config.json").unlink()
    with pytest.raises(InputError) as refused:
        merge_models(spec("ties"), tmp_path / "out", relative_to=family)
    assert len(refused.value.problems) == 2


def test_a_quantised_parent_is_refused(family: Path, tmp_path: Path) -> None:
    tuned(family / "base", family / "c", 3, quantization_config={"bits": 4})
    with pytest.raises(InputError, match="quantised"):
        merge_models(spec("ties", models=[{"path": "a"}, {"path": "c"}]), tmp_path / "out", relative_to=family)


def test_a_dry_run_writes_nothing_and_foretells_the_bytes(family: Path, tmp_path: Path) -> None:
    told = forecast(spec("ties"), family)
    done = merge_models(spec("ties"), tmp_path / "out", relative_to=family)
    assert (told.bytes, told.tensors) == (done.bytes, done.tensors)
    assert told.kind == "estimated"
    assert told.seconds > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["family", "out"]


def test_w6_a_sweep_on_gold_is_refused() -> None:
    """MISSION W6, Bad: lambda sweep on gold refused. On validation rows the best of .2/.5/.9 by the scores .7/.8/.6 is .5."""
    scores = {0.2: 0.7, 0.5: 0.8, 0.9: 0.6}
    with pytest.raises(InputError, match="sweep on validation rows"):
        sweep([0.2, 0.5, 0.9], scores.__getitem__, rows="gold")
    assert sweep([0.2, 0.5, 0.9], scores.__getitem__, rows="validation") == (0.5, {0: 0.7, 1: 0.8, 2: 0.6})


def test_the_command_line_merges(family: Path) -> None:
    from typer.testing import CliRunner

    from planish.cli import app

    config = family / "merge.yaml"
    config.write_text("merge:\n  method: ties\n  base: base\n  models:\n  - {path: a, weight: 0.5}\n  - path: b\n", encoding="utf-8")
    dry = CliRunner().invoke(app, ["merge", str(config), "--dry-run", "--json"], catch_exceptions=False)
    assert json.loads(dry.stdout)["method"] == "ties"
    config.write_text("merge_method: linear\ntokenizer_source: union\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 3}}\n")
    dry = CliRunner().invoke(app, ["merge", str(config), "--dry-run"], catch_exceptions=False)
    assert "not taken over: tokenizer_source: " in dry.stdout
    done = CliRunner().invoke(app, ["merge", str(config), "--out", str(family / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "of the values changed" in done.stdout
    assert (family / "out" / "merge_report.json").is_file()


def test_a_file_of_mergekit_is_read_as_such(family: Path, tmp_path: Path) -> None:
    config = family / "kit.yaml"
    config.write_text("merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 3}}\n", encoding="utf-8")
    read, _ = load(config)
    merge_models(read, tmp_path / "out", relative_to=family)
    a, b, merged = (weights(folder)["model.norm.weight"] for folder in (family / "a", family / "b", tmp_path / "out"))
    assert torch.allclose(merged, (a + 3 * b) / 4, atol=1e-6)


def test_an_adapter_of_another_base_by_path_is_refused_and_one_of_an_unknown_base_is_taken_on_trust(family: Path, tmp_path: Path) -> None:
    """PEFT writes its base as a path or a name, not as a hash. `a` is a model of other content; `somebody/model` lies nowhere: its shapes fit, and nothing more is known."""
    for name, said in (("x", "../a"), ("y", "somebody/model"), ("z", str(family / "base"))):
        config = adapter(family / name, family / "base", 1) / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": said}), encoding="utf-8")
    with pytest.raises(InputError, match=r"x/adapter_config\.json: was trained on \.\./a, which is another model than .*base\n"):
        merge_models(spec("task_arithmetic", models=[{"path": "x"}, {"path": "y"}]), tmp_path / "out", relative_to=family)
    assert not (tmp_path / "out").exists()
    report = merge_models(spec("task_arithmetic", models=[{"path": "y"}, {"path": "z"}, {"path": "a"}]), tmp_path / "out", relative_to=family)
    said = next(one.result for one in report.checks if one.check == "base")
    assert said.startswith("1 parents name it by hash or path, 1 do not: judged by their weights; taken on trust")
    assert said.endswith("its base: y (on somebody/model)")


def test_a_tuned_adapter_becomes_whole_weights_wherever_the_recipe_is_given_from(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe given as `recipe.yaml` names its model as `base`: paths from here, while the weights are written to a work folder elsewhere."""
    adapter(family / "x", family / "base", 1)
    monkeypatch.chdir(family)
    made = whole(Plain(Path("base"), Path("x")), tmp_path / "work")
    assert weights(made).keys() == weights(family / "base").keys()
