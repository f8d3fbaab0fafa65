"""Adapters: identity at step 0, PEFT's own files, merged equals attached (MISSION A, A2, A12)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import make_tiny
from torch import nn

from planish import shelf
from planish.adapters import lora
from planish.data.tree import Sequence, build
from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.policy import score
from planish.model.trained import changed, merged, open_trained, save

TREE = build([Sequence((5, 6, 7, 8, 9), (0, 0, 1, 1, 1)), Sequence((5, 6, 11, 12), (0, 0, 1, 1))])


def answer(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return score(model, TREE, "fp32").log_prob


@pytest.mark.parametrize("name", sorted(shelf.shelf("adapters")))
def test_identity_at_step_0(tiny: Path, name: str) -> None:
    base = answer(load(tiny, "fp32"))
    assert torch.equal(answer(shelf.call("adapters", name, "attach", {})(load(tiny, "fp32"))), base)


def test_a2_worked_number() -> None:
    """MISSION A2: on a 4096 x 4096 layer rank 8 trains 8 x (4096 + 4096) = 65,536 of 16,777,216 weights: 256 times fewer."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4096, 4096, bias=False)

    from peft import LoraConfig, inject_adapter_in_model

    model = inject_adapter_in_model(LoraConfig(r=8, target_modules=["layer"]), One())
    own = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert own == 65_536
    assert 4096 * 4096 / own == 256


def tuned(tiny: Path, folder: Path) -> nn.Module:
    """A saved adapter whose weights are not zero."""
    model = lora.attach(load(tiny, "fp32"), r=4)
    torch.manual_seed(0)
    for parameter in (p for name, p in model.named_parameters() if "lora_" in name):
        nn.init.normal_(parameter, std=0.1)
    save(model, Chat.load(tiny), folder, tiny)
    return model


def test_saved_adapter_opens_in_peft_and_here_and_merges(tiny: Path, tmp_path: Path) -> None:
    """Ours, PEFT's own loading of our files, and the merged weights give one answer (merged: 1e-4 in fp32); the files name the base by hash, not by path."""
    from peft import LoraConfig, PeftModel

    attached = answer(tuned(tiny, tmp_path))
    assert torch.equal(answer(open_trained(tiny, tmp_path, "fp32")), attached)
    config = LoraConfig.from_pretrained(str(tmp_path / "adapter"))
    assert config.base_model_name_or_path.startswith("sha256:")
    theirs = PeftModel.from_pretrained(load(tiny, "fp32"), str(tmp_path / "adapter"), config=config)
    assert torch.equal(answer(theirs), attached)
    assert (answer(merged(tiny, tmp_path)) - attached).abs().max() < 1e-4
    assert str(tiny) not in (tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8")


def test_another_base_is_refused(tiny: Path, tmp_path: Path) -> None:
    tuned(tiny, tmp_path / "run")
    other = make_tiny(tmp_path / "other", layers=3)
    with pytest.raises(InputError, match="was trained on the base"):
        open_trained(other, tmp_path / "run", "fp32")


def test_an_adapter_that_does_nothing_shows_no_change(tiny: Path) -> None:
    model = lora.attach(load(tiny, "fp32"))
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert changed(model, start) == 0
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).add_(0.1)
    assert changed(model, start) > 0
