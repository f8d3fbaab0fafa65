"""The ONNX exporter against transformers on the same weights: every family, with and without a cache; what is refused, and whole folders or none (MISSION Z5)."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import make_tiny
from tests.exporters.onnx_models import FAMILIES, IDS, by_transformers, checkpoint
from transformers import AutoModelForCausalLM

from planish.errors import InputError, RunFailed
from planish.exporters.onnx import export
from planish.model.merge_sources import Checkpoint
from planish.model.onnx_session import GRAPH, OnnxSession
from planish.model.onnx_weights import DATA

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 64, MLP 192."""
    return make_tiny(tmp_path_factory.mktemp("onnx") / "model", hidden=64)


@pytest.mark.parametrize("name", FAMILIES)
def test_z5_logits_of_every_family_equal_transformers(name: str, tiny: Path, tmp_path: Path) -> None:
    """Z5 proof: within 1e-3 in fp32 (here 1e-4), the prompt at once, token by token, and cut anywhere with the keys and values handed on."""
    folder = checkpoint(tmp_path / "model", FAMILIES[name], tiny)
    made = export(folder, tmp_path, precision="fp32")
    onnx.checker.check_model(str(tmp_path / made.file / GRAPH))
    session = OnnxSession(tmp_path / made.file, 1)
    expected = by_transformers(folder, IDS)
    whole, cache = session.run(IDS, session.empty, keep=0)
    assert whole.shape == expected.shape
    assert np.abs(whole - expected).max() < 1e-4
    assert cache.length == len(IDS)
    for cuts in ([0, 7, len(IDS)], [0, 1, 2, 9, 10, len(IDS)], list(range(len(IDS) + 1))):
        cache = session.empty
        for first, last in pairwise(cuts):
            last_logits, cache = session.run(IDS[first:last], cache)
            assert last_logits.shape == (1, 512)
            assert np.abs(last_logits[0] - expected[last - 1]).max() < 1e-4


def test_a_padded_batch_gives_what_each_text_gives_alone(wide: Path, tmp_path: Path) -> None:
    """Left padding, as other tools ask a causal model: attention_mask and position_ids of the whole batch."""
    made = export(wide, tmp_path, precision="fp32")
    texts = [IDS, IDS[:5]]
    width = max(map(len, texts))
    ids = np.array([[0] * (width - len(text)) + text for text in texts], np.int64)
    mask = np.array([[0] * (width - len(text)) + [1] * len(text) for text in texts], np.int64)
    session = onnxruntime.InferenceSession(str(tmp_path / made.file / GRAPH), providers=["CPUExecutionProvider"])
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clip(0), "num_logits_to_keep": np.array(1, np.int64)}
    empty = np.zeros((2, 2, 0, 16), np.float32)
    given |= {name: empty for name in ("past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key", "past_key_values.1.value")}
    [logits] = session.run(["logits"], given)
    assert np.isfinite(logits).all()
    for row, text in zip(logits, texts, strict=True):
        assert np.abs(row[0] - by_transformers(wide, text)[-1]).max() < 1e-4


def test_an_adapter_is_merged_as_it_is_read(wide: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(wide), LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    session = OnnxSession(tmp_path / export(wide, tmp_path, tmp_path / "adapter", precision="fp32").file, 1)
    assert np.abs(session.run(IDS, session.empty, keep=0)[0] - by_transformers(tmp_path / "merged", IDS)).max() < 1e-3


def changed(tiny: Path, folder: Path, **keys: Any) -> Path:
    folder.mkdir(parents=True)
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps(json.loads((tiny / "config.json").read_text()) | keys))
    return folder


def test_what_no_graph_is_built_of_is_refused(wide: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"architectures": ["GemmaForCausalLM"]}, r"GemmaForCausalLM cannot be exported to ONNX\n.*LlamaForCausalLM"),
        ({"num_hidden_layers": 3}, r"layers\.2\.self_attn\.q_proj\.weight: is missing"),
        ({"num_hidden_layers": 1}, r"layers\.1\..*is no tensor of Llama"),
        ({"intermediate_size": 128}, r"gate_proj\.weight: has the shape \(192, 64\), config\.json says \(128, 64\)"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, "hidden_act": "gelu"}, r"(?s)hidden_act: is gelu.*rope_type dynamic"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised already"),
    ]
    for index, (keys, said) in enumerate(wrong):
        with pytest.raises(InputError, match=said):
            export(changed(wide, tmp_path / f"{index}", **keys), tmp_path / "out")
    with pytest.raises(InputError, match="block: 128 does not divide the 64 columns"):
        export(wide, tmp_path / "out", precision="int4", block=128)
    assert not list((tmp_path / "out").glob("*"))


def test_weights_that_are_not_finite_are_refused(wide: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(wide)
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = torch.nan
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight: holds NaN"):
        export(tmp_path / "model", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_codes_that_change_nothing_are_an_error(wide: Path, tmp_path: Path) -> None:
    """A label without conversion is impossible: weights that are whole multiples of their block's scale already come out as they went in."""
    model = AutoModelForCausalLM.from_pretrained(wide)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.full_like(parameter, 0.0))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(RunFailed, match="the compressor did nothing"):
        export(tmp_path / "model", tmp_path / "out", precision="int8")
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupted_write_leaves_nothing_and_the_old_folder_stays(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = export(wide, tmp_path / "out", precision="int8")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / made.file).iterdir()}
    assert before.keys() >= {GRAPH, DATA, "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    plain, calls = Checkpoint.read, 0

    def broken(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(Checkpoint, "read", broken)
    with pytest.raises(KeyboardInterrupt):
        export(wide, tmp_path / "out", precision="int8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [made.file]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / made.file).iterdir()} == before
    monkeypatch.undo()
    export(wide, tmp_path / "again", precision="int8")  # same inputs, same bytes
    assert {path.name: path.read_bytes() for path in (tmp_path / "again" / made.file).iterdir()} == before
