"""The smaller mixes of GGUF, its importance matrix and the Modelfile beside it (MISSION Z2)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tests.conftest import make_tiny
from transformers import LlamaForCausalLM

from planish.engines import llamacpp
from planish.exporters.gguf import export
from planish.model.bundled import locate
from planish.model.calibration_pass import Calibration
from planish.model.engine import Decoding
from planish.model.ggml import GgmlType, quantise, row_bytes
from planish.model.gguf_types import tensor_type

WIDE = 256


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 256 and MLP 768: every K type fits."""
    return make_tiny(tmp_path_factory.mktemp("wide") / "model", hidden=WIDE)


@pytest.fixture(scope="module")
def calibration(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    draw = torch.Generator().manual_seed(0)
    return Calibration(wide, None, [torch.randint(3, 500, (24,), generator=draw).tolist() for _ in range(20)], tmp_path_factory.mktemp("grams"))


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(("kind", "bits"), [("Q2_K", 2.625), ("Q3_K", 3.4375), ("Q4_K", 4.5), ("IQ4_NL", 4.5), ("Q5_K", 5.5), ("Q6_K", 6.5625), ("Q8_0", 8.5)])
def test_z2_ex_bits_per_weight(kind: str, bits: float) -> None:
    """Z2 Ex: Q4_K 4.5, Q5_K 5.5, Q6_K 6.5625, Q8_0 8.5. A Q4_K block: 256 codes of 4 bits, 16 scales and minima in 12 bytes, two fp16: (128 + 12 + 4) x 8 / 256 = 4.5."""
    assert 8 * row_bytes(GgmlType[kind], 256) / 256 == bits


def counted(quant: Any, hidden: int, mlp: int, important: bool = False) -> dict[str, int]:
    """Types of the 211 matrices of the 135M shape: 30 layers, 9 query and 3 value heads, tied."""
    shapes = {"attn_q": (hidden, hidden), "attn_k": (hidden // 3, hidden), "attn_v": (hidden // 3, hidden), "attn_output": (hidden, hidden)}
    shapes |= {"ffn_gate": (mlp, hidden), "ffn_up": (mlp, hidden), "ffn_down": (hidden, mlp)}
    names = {f"blk.{layer}.{part}.weight": shape for layer in range(30) for part, shape in shapes.items()} | {"token_embd.weight": (49152, hidden)}
    found: dict[str, int] = {}
    for name, shape in names.items():
        kind = tensor_type(name, shape, quant, layers=30, tied=True, sharing=3, important=important).written.name
        found[kind] = found.get(kind, 0) + 1
    return found


def test_z2_the_mixes_of_135m_are_those_that_llama_cpp_wrote() -> None:
    """Counted in files that llama_model_quantize wrote of SmolLM2-135M."""
    assert counted("Q2_K", 576, 1536) == {"Q4_0": 180, "Q3_K": 30, "Q8_0": 1}
    assert counted("IQ4_NL", 576, 1536) == {"IQ4_NL": 207, "Q5_K": 3, "Q8_0": 1}
    assert counted("Q4_K_M", 576, 1536) == {"Q5_0": 166, "Q4_K": 16, "Q8_0": 15, "Q6_K": 14}
    assert counted("IQ4_NL", 576, 1536, important=True) == {"IQ4_NL": 210, "Q8_0": 1}


def test_z2_q3_k_m_gives_more_bits_to_values_outputs_and_down() -> None:
    """All widths fit: v 2 x Q5_K and 28 x Q4_K, down 30 // 16 = 1 x Q5_K and 29 x Q4_K, attention output 30 x Q4_K, the other 4 x 30 Q3_K, the embedding Q6_K."""
    assert counted("Q3_K_M", 768, 1536) == {"Q3_K": 120, "Q4_K": 87, "Q5_K": 3, "Q6_K": 1}


@pytest.mark.parametrize("quant", ["Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_NL"])
def test_z2_the_importance_matrix_reaches_ggml(wide: Path, calibration: Calibration, tmp_path: Path, quant: Any) -> None:
    """Tensors byte-equal ggml's, given the mean squares of the inputs; and nearer to the layer's outputs than without them."""
    made = export(wide, tmp_path / "with", None, calibration, quant=quant)
    without = export(wide, tmp_path / "without", None, calibration, quant=quant, imatrix=False)
    assert made.notes[0] == f"importance matrix of 20 training rows, {20 * 24} tokens"
    assert without.notes == ("without an importance matrix",)
    weight = LlamaForCausalLM.from_pretrained(wide, dtype=torch.float32).state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
    gram = calibration.grams.of("model.layers.1.mlp.up_proj")
    mean = gram.diagonal / gram.tokens
    written = tensors(tmp_path / "with" / made.file)["blk.1.ffn_up.weight"]
    expected = quantise(weight, written.tensor_type, (mean + 1e-6 * mean.mean()).numpy(), threads=1)
    assert np.array_equal(written.data, expected)
    errors = []
    for folder, report in (("with", made), ("without", without)):
        tensor = tensors(tmp_path / folder / report.file)["blk.1.ffn_up.weight"]
        change = gguf.quants.dequantize(tensor.data, tensor.tensor_type) - weight
        errors.append(float((change**2 @ mean.numpy()).sum()))
    assert errors[0] < errors[1]


def test_formats_of_8_bits_and_more_are_not_calibrated(wide: Path, tmp_path: Path) -> None:
    nothing = Calibration(wide, None, [], tmp_path)  # asking it would raise
    assert export(wide, tmp_path, None, nothing, quant="Q8_0").notes == ()


def test_the_modelfile_names_the_file_and_where_answers_end(wide: Path, tmp_path: Path) -> None:
    export(wide, tmp_path, quant="Q8_0")
    assert (tmp_path / "Modelfile-Q8_0").read_text() == 'FROM ./model-Q8_0.gguf\nPARAMETER stop "<|im_end|>"\nPARAMETER temperature 0\n'


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_z2_qwen_answers_as_transformers_does(tmp_path: Path, family: str) -> None:
    """llama.cpp writes the same greedy tokens as transformers; of Qwen3 names, values and metadata are those of convert-hf-to-gguf. The tokenizer is the bundled model's, which the
    converter does not take with a Qwen2 configuration: transformers then cuts its words by Qwen2's rule, and the converter knows no name for the two together."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(locate("smollm2-135m-instruct")).save_pretrained(tmp_path / "model")
    made = export(tmp_path / "model", tmp_path, quant="F16")
    if family == "Qwen3":
        converter = Path(sys.executable).parent / "convert-hf-to-gguf"
        subprocess.run([converter, tmp_path / "model", "--outfile", tmp_path / "oracle.gguf", "--outtype", "f16"], check=True, capture_output=True)
        ours, theirs = tensors(tmp_path / made.file), tensors(tmp_path / "oracle.gguf")
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name].data, theirs[name].data) for name in theirs)
        said, expected = (
            {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()} for path in (tmp_path / made.file, tmp_path / "oracle.gguf")
        )
        assert {key for key in expected if said.get(key) != expected[key]} <= {"general.name", "GGUF.kv_count"}
    engine = llamacpp.start(tmp_path / made.file, context=64, slots=1, threads=1)
    try:
        [found] = engine.generate([[5, 60, 700]], Decoding(max_new_tokens=8))
    finally:
        engine.close()
    greedy = model.eval().generate(torch.tensor([[5, 60, 700]]), max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    assert list(found.token_ids) == [token for token in greedy if token != 2]


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["Q3_K_M", "Q2_K", "IQ4_NL"])
def test_z2_llama_cpp_loads_and_answers(wide: Path, calibration: Calibration, tmp_path: Path, quant: Any) -> None:
    made = export(wide, tmp_path, None, calibration, quant=quant)
    engine = llamacpp.start(tmp_path / made.file, context=128, slots=1, threads=1)
    try:
        [said] = engine.generate([[5, 6, 7]], Decoding(max_new_tokens=4))
        assert 0 < len(said.token_ids) <= 4
    finally:
        engine.close()
