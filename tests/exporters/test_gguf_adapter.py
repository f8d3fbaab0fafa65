"""A LoRA as a GGUF adapter over the base's file, against PEFT with the adapter attached (MISSION Z2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tests.conftest import make_tiny
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from planish.engines import llamacpp
from planish.errors import InputError
from planish.exporters import gguf as exporter
from planish.model.engine import Decoding
from planish.model.ggml import GgmlType
from planish.model.gguf_plain import plain_folder
from planish.model.gguf_types import Choice

SIZES = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256, "initializer_range": 0.2}
GEMMA = {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 40}
BASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "llama": ("llama", {}, ["q_proj", "k_proj", "down_proj"]),
    "gemma2": ("gemma2", GEMMA, ["q_proj", "v_proj", "up_proj"]),
    "gemma3": ("gemma3_text", GEMMA | {"tie_word_embeddings": False}, ["q_proj", "v_proj", "up_proj"]),
    "phi3": ("phi3", {}, ["qkv_proj", "gate_up_proj"]),
}
SCALES: dict[str, dict[str, Any]] = {
    "one alpha": {"r": 4, "lora_alpha": 24},
    "rank-stabilised": {"r": 4, "lora_alpha": 12, "use_rslora": True},
    "by module": {"r": 4, "lora_alpha": 24, "rank_pattern": {r"layers\.1\..*": 2}, "alpha_pattern": {r"layers\.0\..*": 6}},
}


def build(folder: Path, family: str, **scale: Any) -> Any:
    """A base, and an adapter with random B beside it; gives the model with the adapter attached."""
    from peft import LoraConfig, get_peft_model

    kind, changes, targets = BASES[family]
    make_tiny(folder / "base")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(SIZES | IDS | changes))).save_pretrained(folder / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), LoraConfig(target_modules=targets, **scale))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "adapter")
    return model.eval()


@pytest.fixture
def in_f32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "tensor_type", lambda *_, **__: Choice(GgmlType.F32, GgmlType.F32))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "scale"), [("llama", "one alpha"), ("llama", "by module"), ("gemma3", "rank-stabilised"), ("phi3", "one alpha")])
def test_z2_base_and_adapter_say_what_peft_says(family: str, scale: str, tmp_path: Path, in_f32: None) -> None:
    """20 greedy tokens on each of three prompts; without the adapter they are others."""
    model = build(tmp_path, family, **SCALES[scale])
    exporter.export(tmp_path / "base", tmp_path / "out", tmp_path / "adapter", quant="F16", lora="apart")
    exporter.export(tmp_path / "base", tmp_path / "bare", quant="F16")
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 500, (12,), generator=draw).tolist() for _ in range(3)]
    said: dict[str, list[list[int]]] = {}
    for folder in ("out", "bare"):
        engine = llamacpp.start(tmp_path / folder / "model-F16.gguf", context=256, slots=1, threads=1)
        try:
            said[folder] = [list(one.token_ids) for one in engine.generate(prompts, Decoding(max_new_tokens=20))]
        finally:
            engine.close()
    expected = [model.generate(input_ids=torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=2)[0, 12:].tolist() for ids in prompts]
    assert said["out"] == [[token for token in tokens if token != 2] for tokens in expected]
    assert said["bare"] != said["out"]


@pytest.mark.parametrize(("family", "scale"), [("llama", "by module"), ("gemma2", "rank-stabilised"), ("phi3", "one alpha")])
def test_the_two_files_stand_for_the_merged_weights(family: str, scale: str, tmp_path: Path, in_f32: None) -> None:
    """What is scored for closeness: base file plus adapter file give PEFT's merge."""
    model = build(tmp_path, family, **SCALES[scale])
    made = exporter.export(tmp_path / "base", tmp_path / "out", tmp_path / "adapter", quant="F16", lora="apart")
    again = AutoModelForCausalLM.from_pretrained(plain_folder(tmp_path / "out" / made.file, tmp_path / "base", tmp_path / "plain"))
    merged = model.merge_and_unload().state_dict()
    for name, values in again.state_dict().items():
        assert torch.allclose(values, merged[name], atol=1e-5), name


def test_alpha_is_written_where_one_serves_all(tmp_path: Path, in_f32: None) -> None:
    """alpha 24 at rank 4 in every module: written as 24, llama.cpp divides by 4. Per-module alphas: 0, and B holds the scaling. The Modelfile names the adapter."""
    for scale, alpha in (("one alpha", 24.0), ("by module", 0.0)):
        folder = tmp_path / scale
        build(folder, "llama", **SCALES[scale])
        made = exporter.export(folder / "base", folder / "out", folder / "adapter", quant="F16", lora="apart")
        reader = gguf.GGUFReader(folder / "out" / "model-F16.adapter.gguf")
        said = {key: field.contents() for key, field in reader.fields.items()}
        assert (said["general.type"], said["adapter.type"], said["adapter.lora.alpha"]) == ("adapter", "lora", alpha)
        assert len(reader.tensors) == 2 * 2 * 3
        assert made.notes[-1] == "model-F16.adapter.gguf holds the adapter: 6 weights"
        assert "ADAPTER ./model-F16.adapter.gguf" in (folder / "out" / "Modelfile-F16").read_text()


def test_an_adapter_of_another_base_writes_nothing(tmp_path: Path) -> None:
    build(tmp_path / "one", "llama", **SCALES["one alpha"])
    make_tiny(tmp_path / "other", hidden=32)
    with pytest.raises(InputError, match=r"the base has \(32, 32\)"):
        exporter.export(tmp_path / "other", tmp_path / "out", tmp_path / "one" / "adapter", quant="F16", lora="apart")
    assert not (tmp_path / "out").exists()
