"""Adapters on families that are built otherwise: fused and transposed matrices, calls by place, sliding windows, capped logits, experts. The tree equals rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.shelf_of_adapters import OPTIONS, moved
from tests.model.families import FAMILIES, distance, draw_rows, eager, flat_loss, gradients, make

from planish import shelf
from planish.data.tree import build
from planish.errors import InputError
from planish.model.load import load
from planish.model.policy import score

EVERY_HEAD_ITS_OWN = {"num_key_value_heads": 4}
"""GPT-2 and GPT-NeoX have no grouped heads; their configuration must not say otherwise."""
CASES = [
    ("gpt2", ("bitfit", "bottleneck", "dora", "ia3", "lora", "p_tuning", "prefix", "prompt")),
    ("gpt_neox", ("bottleneck", "ia3", "prefix", "prompt")),
    ("gemma2", ("bottleneck", "ia3", "prefix", "prompt")),
    ("mistral_window", ("prefix", "prompt")),
    ("qwen3_moe", ("lora", "prefix")),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family, _ in CASES:
        kind, changes = FAMILIES[family]
        made[family] = make(tmp_path_factory.mktemp(family) / "model", kind, changes | (EVERY_HEAD_ITS_OWN if kind.startswith("gpt") else {}))
    return made


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in CASES for name in names])
def test_tree_equals_rows_alone(folders: dict[str, Path], family: str, name: str) -> None:
    torch.manual_seed(1)
    model: Any = moved(shelf.call("adapters", name, "attach", OPTIONS[name])(load(folders[family], "fp32")))
    rows = draw_rows(1)
    part = score(model, build(rows), "fp32")
    ours = gradients(model, -(part.log_prob * part.weight).sum())
    assert ours
    with eager(model):
        assert distance(ours, gradients(model, flat_loss(model, rows))) <= 1e-5


def test_what_peft_has_no_adapter_for_is_refused(folders: dict[str, Path]) -> None:
    """DoRA on experts that are one tensor."""
    with pytest.raises(InputError, match="does not go on this model"):
        shelf.call("adapters", "dora", "attach", {"r": 4})(load(folders["qwen3_moe"], "fp32"))
