"""Codes of 8 and 4 bits in an ONNX graph: by hand, by onnxruntime's own quantiser, and as the weights that they stand for (MISSION Z5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import make_tiny
from tests.exporters.onnx_models import FAMILIES, IDS, by_transformers, checkpoint
from transformers import AutoModelForCausalLM

from planish.engines.onnx import start
from planish.errors import InputError
from planish.exporters import onnx as exporter
from planish.exporters.onnx import export
from planish.model import onnx_graph, onnx_weights
from planish.model.calibration_pass import Calibration
from planish.model.closeness import closeness
from planish.model.exported import Quantised
from planish.model.load import load
from planish.model.onnx_decoder import read_decoder
from planish.model.onnx_session import GRAPH, OnnxSession
from planish.model.onnx_weights import DATA, as_stored, coded, packed

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 64, MLP 192."""
    return make_tiny(tmp_path_factory.mktemp("onnx") / "model", hidden=64)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_codes_compute_what_they_stand_for(precision: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers with the weights that the codes stand for gives the graph's logits: exactly where products are fp32, near where activations are rounded to 8 bits too."""
    folder = checkpoint(tmp_path / "model", FAMILIES["llama with biases, untied"], tiny)
    weights = onnx_weights.plan(read_decoder(folder), exporter.BITS[precision], 32)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if weights[name].bits < 32:
                parameter.copy_(coded(parameter, weights[name].bits, 32).values())
    plain.save_pretrained(tmp_path / "plain")
    expected = by_transformers(tmp_path / "plain", IDS)
    rounded = export(folder, tmp_path / "rounded", precision=precision)
    monkeypatch.setattr(onnx_graph, "INT8_PRODUCTS", 1)
    exact = export(folder, tmp_path / "exact", precision=precision)
    logits = [OnnxSession(tmp_path / kind / exact.file, 1) for kind in ("exact", "rounded")]
    found = [session.run(IDS, session.empty, keep=0)[0] for session in logits]
    assert np.abs(found[0] - expected).max() < 1e-4
    assert 1e-4 < np.abs(found[1] - expected).max() < 0.1 * np.abs(expected).max()
    assert isinstance(rounded, Quantised)
    assert rounded.changed == pytest.approx({"int8": 0.006, "int4": 0.09}[precision], rel=0.5)
    linear = {"int8": {"int8 block 32": 16}, "int4": {"int4 block 32": 14, "int8 block 32": 2}}[precision]
    assert rounded.tensor_types == linear | {"F32": 19}


def test_a_tied_embedding_is_stored_once(wide: Path, tmp_path: Path) -> None:
    """512 x 64 codes of 8 bits with 512 x 2 fp32 scales: 36,864 bytes that both the embedding and the output matrix read."""
    made = export(wide, tmp_path, precision="int4")
    held = {one.name: one for one in onnx.load(str(tmp_path / made.file / GRAPH), load_external_data=False).graph.initializer}
    rows, codes = (held[f"model.embed_tokens.weight.{part}"] for part in ("rows", "codes"))
    where = [{entry.key: entry.value for entry in one.external_data} for one in (rows, codes)]
    assert where[0] == where[1]
    assert list(rows.dims) == [512, 64]
    assert list(codes.dims) == [512, 2, 32]
    linear = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 192)
    blocks = linear // 32
    bits = 8 * (512 * 64 + 512 * 2 * 4 + linear // 2 + blocks * 4 + blocks // 2 + 5 * 64 * 4)
    assert made.bits_per_weight == pytest.approx(bits / (512 * 64 + linear + 5 * 64))
    assert made.bytes == sum((tmp_path / made.file / name).stat().st_size for name in (GRAPH, DATA))


def test_codes_by_hand() -> None:
    """4 bits between -1.5 and 6: scale 7.5 / 15 = .5, zero 3; 1 is code 5, and two codes share a byte, the first in its low half: (0, 15) is 0xF0. 8 bits: 2 is 127 + 128,
    scale 2 / 127."""
    row = torch.zeros(1, 16)
    row[0, :4] = torch.tensor([-1.5, 6.0, 1.0, 0.0])
    codes, scales, zeros = as_stored(coded(row, 4, 16), 4)
    assert codes[0, :2].tolist() == [0xF0, 0x35]
    assert (scales.item(), zeros.item()) == (0.5, 3)
    assert packed(torch.tensor([[1, 2, 3]]), 4).tolist() == [[0x21, 0x03]]
    whole = as_stored(coded(torch.tensor([[2.0, -2.0, *[0.0] * 14]]), 8, 16), 8)
    assert whole[0][0, :3].tolist() == [255, 1, 128]
    assert whole[1].item() == pytest.approx(2 / 127)


def test_codes_of_4_bits_are_those_of_onnxruntimes_own_quantiser() -> None:
    """Its kernel takes the transposed weight, and rounds asymmetric blocks to the same codes, scales and zeros to the last bit. In 8 bits ours lie around zero, without zeros to
    store, and are as near."""
    from onnxruntime.capi import _pybind_state as own

    values = torch.randn(96, 192, generator=torch.Generator().manual_seed(0))
    blocks = 192 // 32
    for bits, quantise in ((4, own.quantize_matmul_4bits), (8, own.quantize_matmul_8bits)):
        codes, scales = np.zeros((96, blocks, 32 * bits // 8), np.uint8), np.zeros((96, blocks), np.float32)
        zeros = np.zeros((96, -(-blocks * bits // 8)), np.uint8)
        quantise(codes, np.ascontiguousarray(values.numpy().T), scales.reshape(-1), zeros.reshape(-1), 32, 96, 192, False)
        made = coded(values, bits, 32)
        if bits == 4:
            ours = as_stored(made, 4)
            assert np.array_equal(ours[0], codes.reshape(96, -1))
            assert np.array_equal(ours[1], scales)
            assert np.array_equal(ours[2], zeros)
        else:
            theirs = (codes.astype(np.float32) - zeros[:, :, None]) * scales[:, :, None]
            error = [float((found - values).square().mean().sqrt()) for found in (made.values(), torch.from_numpy(theirs.reshape(96, 192)))]
            assert error[0] < 1.15 * error[1]


def test_gptq_codes_are_nearer_to_the_source_than_rounding(wide: Path, tmp_path: Path) -> None:
    """Same file, other codes: on other text of the kind that they were calibrated on the predictions are nearer to those of the source."""
    draw = torch.Generator().manual_seed(0)
    text = [torch.randint(3, 500, (24,), generator=draw).tolist() for _ in range(48)]
    calibration, source = Calibration(wide, None, text[:40], tmp_path / "grams"), load(wide, "fp32")
    kl = {}
    for name, keys in (("nearest", {}), ("gptq", {"gptq": True})):
        made = export(wide, tmp_path / name, None, calibration, precision="int4", **keys)
        kl[name] = closeness(source, start(tmp_path / name / made.file, threads=1).logits, text[40:])["kl"].value
        assert made.fell_back == ()
    assert 0 < kl["gptq"] < kl["nearest"]
    with pytest.raises(InputError, match="gptq: is for codes of 4 bits, not int8"):
        export(wide, tmp_path, None, calibration, precision="int8", gptq=True)
    with pytest.raises(InputError, match="onnx with gptq"):
        export(wide, tmp_path, precision="int4", gptq=True)
