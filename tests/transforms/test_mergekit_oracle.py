"""Every merge method against mergekit 0.1.5 itself, tensor by tensor to 1e-6, from the same YAML file. Needs a Python with mergekit in PLANISH_MERGEKIT_PYTHON."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from planish.merge import load, merge_models
from planish.transforms import dare

PYTHON = os.environ.get("PLANISH_MERGEKIT_PYTHON")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PYTHON is None, reason="PLANISH_MERGEKIT_PYTHON names no Python with mergekit")]


def models(*weights: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": {"weight": weight} | more} for name, weight in zip("ab", weights, strict=True)]


CASES: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "models": models(0.3, [0.2, 0.9])},
    "slerp": {
        "merge_method": "slerp",
        "base_model": "a",
        "models": [{"model": "b"}],
        "parameters": {"t": [{"filter": "mlp", "value": [0.1, 0.8]}, {"value": 0.4}]},
    },
    "task_arithmetic": {"merge_method": "task_arithmetic", "base_model": "base", "models": models(0.7, -0.4), "parameters": {"lambda": 1.3}},
    "ties": {"merge_method": "ties", "base_model": "base", "models": models(0.5, [{"filter": "mlp", "value": 0.2}, {"value": 0.9}], density=0.3)},
    "dare_linear": {"merge_method": "dare_linear", "base_model": "base", "models": models(0.5, 0.8, density=0.6)},
    "dare_ties": {"merge_method": "dare_ties", "base_model": "base", "models": models(0.5, 0.8, density=0.6), "parameters": {"normalize": True}},
}


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("case", CASES)
def test_w1_to_w5_tensors_equal_mergekit(case: str, family: Path, tmp_path: Path) -> None:
    """MISSION W1 to W5, Proof: mergekit tensors equal (1e-6), weights by layer and by tensor included. The lengths of two tensors alike are told apart by their differences."""
    assert PYTHON is not None
    given = CASES[case] | {"dtype": "float32"}
    (family / "merge.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    side = [PYTHON, str(Path(__file__).with_name("mergekit_side.py").resolve()), "merge.yaml", str(tmp_path / "theirs")]
    if case.startswith("dare"):
        base, held = weights(family / "base"), {}
        for index, parent in enumerate("ab"):
            for name, tensor in weights(family / parent).items():
                delta = tensor - base[name]
                held[f"delta|{parent}|{name}"] = delta
                held[f"dropped|{parent}|{name}"] = dare.drop(delta.reshape(-1), 0.6, dare.generator(0, name, index)).reshape(delta.shape)
        save_file(held, tmp_path / "held.safetensors")
        side.append(str(tmp_path / "held.safetensors"))
    subprocess.run(
        side, check=True, cwd=family, stdout=subprocess.DEVNULL, env={"PATH": os.environ.get("PATH", ""), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    )
    spec, _ = load(family / "merge.yaml")
    merge_models(spec, tmp_path / "ours", relative_to=family)
    ours, theirs = weights(tmp_path / "ours"), weights(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name].float(), atol=1e-6, rtol=0), (name, float((ours[name] - theirs[name]).abs().max()))
