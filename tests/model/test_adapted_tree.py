"""The tree under adapters: dropout, other PEFT kinds, a 4-bit base, half precision; each against its rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from tests.model.families import distance, draw_rows, eager, flat_loss, gradients, make
from torch import nn

from planish.data.tree import Sequence, build
from planish.model.load import load
from planish.model.policy import score
from planish.model.recompute import checkpoint_activations
from planish.model.trunk import Trunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("adapted") / "model", "llama", {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})


def adapted(model: nn.Module, config: PeftConfig) -> nn.Module:
    peft = get_peft_model(model, config)
    torch.manual_seed(1)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return peft


def loss_of(model: nn.Module, rows: list[Sequence], precision: str = "fp32", trunk: Trunk | None = None) -> torch.Tensor:
    part = score(model, build(rows), precision, trunk=trunk)
    return -(part.log_prob * part.weight).sum()


def off(model: nn.Module, rows: list[Sequence]) -> float:
    """Relative distance of the tree's gradients from those of the rows alone."""
    ours = gradients(model, loss_of(model, rows))
    with eager(model):
        return distance(ours, gradients(model, flat_loss(model, rows)))


CONFIGS = {
    "lora": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    "rslora_dora": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=True, use_dora=True),
    "lora_on_head": LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"),
    "head_saved_whole": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters(folder: Path, name: str) -> None:
    """Loss gradients of every adapter tensor equal those of the rows alone; an adapter on the LM head is not passed over."""
    model = adapted(load(folder, "fp32"), CONFIGS[name])
    assert off(model, draw_rows(1)) <= 1e-5


def test_dropout_is_drawn_once_per_shared_token(folder: Path) -> None:
    """Two equal rows in one tree are one row: with dropout 0.5 both get the same log-probabilities in a pass, and another pass draws another mask."""
    model = adapted(load(folder, "fp32"), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM")).train()
    row = Sequence((3, 4, 5, 6, 7), (0.0, 1.0, 1.0, 1.0, 1.0))
    first, second = (score(model, build([row, row]), "fp32").log_prob.detach().view(2, 4) for _ in range(2))
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_half_precision_stays_near(folder: Path) -> None:
    """bf16 autocast over a bf16 base with fp32 adapters: gradients point where fp32 ones do, and adapters keep fp32 gradients."""
    exact = adapted(load(folder, "fp32"), CONFIGS["lora"])
    half = adapted(load(folder, "bf16"), CONFIGS["lora"])
    rows = draw_rows(2)
    theirs, ours = gradients(exact, loss_of(exact, rows)), gradients(half, loss_of(half, rows, "bf16"))
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    a, b = (torch.cat([each[name].flatten() for name in theirs]) for each in (ours, theirs))
    assert torch.cosine_similarity(a, b, 0) > 0.99


def test_four_bit_base(folder: Path, tmp_path: Path) -> None:
    """NF4 base with LoRA (QLoRA, arXiv 2305.14314): tree equals rows, with recomputed layers and with a cached trunk too."""
    pytest.importorskip("bitsandbytes")
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], layers_to_transform=[1], task_type="CAUSAL_LM")
    base = load(folder, "fp32", four_bit=True)
    assert "Linear4bit" in {type(module).__name__ for module in base.modules()}
    model, rows = adapted(base, config), draw_rows(3)
    assert off(model, rows) <= 1e-5
    wanted = gradients(model, loss_of(model, rows))
    trunk = Trunk(model, tmp_path / "trunk.bin", 2**22, "fp32")
    assert not trunk.reason
    checkpoint_activations(model)
    for _ in range(2):
        assert distance(gradients(model, loss_of(model, rows, trunk=trunk)), wanted) <= 1e-5
    trunk.close()
