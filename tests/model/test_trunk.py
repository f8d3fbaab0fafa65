"""Do less, exactly: backward stops below the lowest trained layer, the frozen trunk is read from disk, and a layer is recomputed only when asked."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.model.families import distance, draw_rows, gradients, make
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from planish.data.tree import Sequence, build
from planish.errors import InputError
from planish.model.activation_cache import ActivationCache
from planish.model.backbone import backbone, layers
from planish.model.load import load
from planish.model.policy import score
from planish.model.recompute import checkpoint_activations
from planish.model.trunk import Trunk, frozen_depth, stop_backward

LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trunk")


def opened(
    folder: Path, kind: str = "llama", count: int = LAYERS, trained: tuple[int, ...] | None = (LAYERS - 1,), precision: Any = "fp32", **changes: Any
) -> nn.Module:
    """A model with LoRA on some layers, whose B is not zero, so that every adapter has a gradient."""
    where = folder / f"{kind}-{count}-{'-'.join(changes)}"
    if not where.is_dir():
        make(where, kind, {"num_hidden_layers": count, "sliding_window": 5, **changes})
    torch.manual_seed(0)
    base = load(where, precision)
    linears = sorted({name.rpartition(".")[2] for name, module in layers(base).named_modules() if isinstance(module, nn.Linear | Conv1D)})
    config = LoraConfig(r=2, target_modules=linears, layers_to_transform=None if trained is None else list(trained), task_type="CAUSAL_LM")
    config.fan_in_fan_out = kind == "gpt2"
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.manual_seed(len(name))
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss_of(model: nn.Module, rows: list[Sequence], trunk: Trunk | None = None) -> torch.Tensor:
    part = score(model, build(rows), "fp32", trunk=trunk)
    return -(part.log_prob * part.weight).sum()


def counted(model: nn.Module, rows: list[Sequence], trunk: Trunk | None = None) -> tuple[int, int, int]:
    """FLOPs of the forward pass, of the backward pass, and bytes kept for the latter that are no weights."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with FlopCounterMode(display=False) as forward, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, rows, trunk)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops(), sum(kept.values())


def test_depth_of_what_is_frozen(folder: Path) -> None:
    assert frozen_depth(opened(folder)) == LAYERS - 1
    assert frozen_depth(opened(folder, trained=(1, 3))) == 1
    assert frozen_depth(opened(folder, trained=None)) == 0
    probe = opened(folder).get_base_model().requires_grad_(False)
    probe.lm_head.requires_grad_(True)
    assert frozen_depth(probe) == LAYERS
    probe.get_input_embeddings().requires_grad_(True)
    assert frozen_depth(probe) == 0
    tied = opened(folder, tie_word_embeddings=True).get_base_model().requires_grad_(False)
    tied.lm_head.requires_grad_(True)
    assert frozen_depth(tied) == 0


def test_t11_backward_stops_below_the_lowest_trained_layer(folder: Path) -> None:
    """MISSION T11: FLOPs fall as computed. With adapters on the top layer of four, the backward pass and what is kept for it are those of a one-layer model.

    Per token 2N + 2fN, f = 1/4, instead of 4N: 4 / 2.5 = 1.6 times fewer; with the trunk cached 4fN: 4 times fewer. Adapters, head and the products that even the lowest
    trained layer need not form are the rest, so a quarter either way.
    """
    rows = draw_rows(1, 24)
    top, one, all_four = opened(folder), opened(folder, count=1, trained=(0,)), opened(folder, trained=None)
    forward, backward, kept = counted(top, rows)
    one_forward, one_backward, one_kept = counted(one, rows)
    assert (backward, kept) == (one_backward, one_kept)
    everything = sum(counted(all_four, rows)[:2])
    assert everything / (forward + backward) == pytest.approx(1.6, rel=0.25)
    trunk = Trunk(top, folder / "flops.bin", 2**22, "fp32")
    loss_of(top, rows, trunk)
    cached_forward, cached_backward, _ = counted(top, rows, trunk)
    assert (cached_forward, cached_backward) == (one_forward, one_backward)
    assert everything / (cached_forward + cached_backward) == pytest.approx(4, rel=0.25)
    trunk.close()


def test_embeddings_are_never_asked_for_a_gradient(folder: Path) -> None:
    """PEFT's and transformers' switch for checkpointing makes them ask, and the backward pass runs to the bottom; `stop_backward` takes it back."""
    model, rows = opened(folder), draw_rows(1)
    before = counted(model, rows)
    model.get_base_model().enable_input_require_grads()
    assert counted(model, rows)[1] > 1.5 * before[1]
    stop_backward(model)
    assert counted(model, rows) == before


@pytest.fixture
def trunk_path(tmp_path: Path) -> Path:
    return tmp_path / "trunk.bin"


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_neox"])
def test_t11_cached_trunk_gives_the_same_gradients(folder: Path, trunk_path: Path, kind: str) -> None:
    """Three epochs over other micro-batches each time: gradients equal the uncached ones to 1e-5; after the first epoch no layer of the trunk runs."""
    model, rows = opened(folder, kind), draw_rows(2, 18)
    trunk = Trunk(model, trunk_path, 2**22, "fp32")
    assert not trunk.reason
    calls = []
    layers(model)[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for epoch in range(3):
        for part in range(3):
            batch = rows[part::3] if epoch % 2 else rows[6 * part : 6 * part + 6]
            wanted = gradients(model, loss_of(model, batch))
            ran, before = len(calls), trunk.cache.misses
            assert distance(gradients(model, loss_of(model, batch, trunk)), wanted) <= 1e-5
            if epoch:
                assert len(calls) == ran + 1  # the hook sees the layer being passed over, and no more
                assert trunk.cache.misses == before
    trunk.close()


@pytest.mark.parametrize(("base", "precision"), [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "bf16")])
def test_a_cached_pass_is_bit_identical_where_the_shape_is(folder: Path, trunk_path: Path, base: Any, precision: Any) -> None:
    """Activations are kept in the trunk's own format, so nothing is rounded on the way: a bf16 base, and an fp32 base whose products are made in bf16."""
    model, rows = opened(folder, precision=base), draw_rows(3, 9)
    trunk = Trunk(model, trunk_path, 2**22, precision)
    assert not trunk.reason
    plain, *cached = (score(model, build(rows), precision, trunk=each).log_prob for each in (None, trunk, trunk))
    assert trunk.cache.hits > 0
    assert all(torch.equal(each, plain) for each in cached)
    trunk.close()


def test_the_cache_outlives_its_process_and_knows_its_model(folder: Path, trunk_path: Path) -> None:
    """A second run finds what the first left; a changed weight of the trunk finds nothing; a changed adapter above it finds all."""
    model, rows = opened(folder), draw_rows(4, 9)

    def missed() -> int:
        trunk = Trunk(model, trunk_path, 2**22, "fp32")
        loss_of(model, rows, trunk)
        trunk.close()
        return trunk.cache.misses

    first = missed()
    assert first > 0
    assert missed() == 0
    with torch.no_grad():
        next(p for p in layers(model)[-1].parameters() if p.requires_grad).add_(1.0)
    assert missed() == 0
    with torch.no_grad():
        layers(model)[0].input_layernorm.weight.add_(0.5)
    assert missed() == first


def test_budget_holds_and_the_least_recently_used_go(folder: Path, trunk_path: Path) -> None:
    """A budget of 12 blocks for rows of many more: the file never outgrows it, values stay right, and what was used last is still there."""
    model = opened(folder)
    slot = 40 + 16 * 32 * 4
    trunk = Trunk(model, trunk_path, 13 * slot, "fp32")
    for seed in range(4):
        rows = draw_rows(10 + seed, 9)
        assert loss_of(model, rows, trunk).item() == pytest.approx(loss_of(model, rows).item(), rel=1e-5)
        assert trunk_path.stat().st_size <= 13 * slot
    assert trunk.cache.evicted > 0
    trunk.close()


def test_lru_order(trunk_path: Path) -> None:
    cache = ActivationCache(trunk_path, 4 * (40 + 16 * 2 * 4), 2, torch.float32, "m")
    keys = [bytes([n]) * 32 for n in range(5)]
    for n in range(3):
        cache.put(keys[n], torch.full((16, 2), float(n)))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], torch.full((4, 2), 3.0))
    assert [cache.get(key) is not None for key in keys[:4]] == [True, False, True, True]
    assert cache.get(keys[3]).tolist() == [[3.0, 3.0]] * 4
    cache.close()


def test_a_torn_block_is_absent(trunk_path: Path) -> None:
    """A slot that was half written when the process died, wherever the tear is, reads as missing and is written anew."""
    slot = 40 + 16 * 2 * 2

    def new() -> ActivationCache:
        return ActivationCache(trunk_path, 4 * slot, 2, torch.bfloat16, "m")

    values = torch.randn(16, 2).bfloat16()
    for at in (slot, slot + 36, slot + 41, 2 * slot - 1):
        trunk_path.unlink(missing_ok=True)
        cache = new()
        cache.put(b"k" * 32, values)
        cache.close()
        with trunk_path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 255]))
        cache = new()
        assert cache.get(b"k" * 32) is None
        cache.put(b"k" * 32, values)
        assert torch.equal(cache.get(b"k" * 32), values)
        cache.close()
    trunk_path.write_bytes(trunk_path.read_bytes()[: slot + 10])
    assert new().get(b"k" * 32) is None


def test_a_full_disk_ends_the_storing_and_not_the_run(folder: Path, trunk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = opened(folder), draw_rows(8, 9)
    trunk = Trunk(model, trunk_path, 2**22, "fp32")

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    assert loss_of(model, rows, trunk).item() == loss_of(model, rows).item()
    assert trunk.cache.full_disk
    trunk.close()


def test_one_process_at_a_time_and_a_budget_that_holds_something(trunk_path: Path) -> None:
    cache = ActivationCache(trunk_path, 2**16, 2, torch.float32, "m")
    with pytest.raises(InputError, match="in use"):
        ActivationCache(trunk_path, 2**16, 2, torch.float32, "m")
    cache.close()
    with pytest.raises(InputError, match="holds no block"):
        ActivationCache(trunk_path, 100, 2, torch.float32, "m")


def test_reasons_why_nothing_is_kept(folder: Path, trunk_path: Path) -> None:
    """Then the pass is the plain one, and the reason is there to be told."""
    rows = draw_rows(1)
    for model, reason in (
        (opened(folder, trained=None), "first layer"),
        (opened(folder, "gpt2", n_layer=LAYERS, n_head=4, n_embd=32, resid_pdrop=0.1), "dropout"),
        (opened(folder, attention_dropout=0.1), "dropout"),
    ):
        trunk = Trunk(model, trunk_path, 2**20, "fp32")
        assert reason in trunk.reason
        model.eval()
        assert torch.equal(loss_of(model, rows, trunk), loss_of(model, rows))


def test_a_trunk_that_is_more_than_one_state_is_found_out(folder: Path, trunk_path: Path) -> None:
    """A layer above that reads something else which the trunk made."""
    model = opened(folder)
    stack = layers(model)
    made: list[torch.Tensor] = []
    stack[0].register_forward_pre_hook(lambda module, inputs: made.clear())
    stack[0].mlp.register_forward_hook(lambda module, inputs, output: made.append(output))
    stack[3].register_forward_hook(lambda module, inputs, output: output + (made.pop() if made else 0))
    trunk = Trunk(model, trunk_path, 2**20, "fp32")
    assert "need more of the trunk" in trunk.reason


@pytest.mark.parametrize("trained", [(3,), (1, 2), None])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_recomputing_changes_nothing_but_memory(folder: Path, kind: str, trained: tuple[int, ...] | None) -> None:
    """Gradients with and without checkpointing are equal bit for bit; less is kept, and the backward pass still stops where it did."""
    model, rows = opened(folder, kind, trained=trained), draw_rows(6, 24)
    model.train()
    wanted, before = gradients(model, loss_of(model, rows)), counted(model, rows)
    assert checkpoint_activations(model) == LAYERS - (min(trained) if trained else 0)
    got, after = gradients(model, loss_of(model, rows)), counted(model, rows)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert after[2] < before[2]
    assert not backbone(model).get_input_embeddings()(torch.tensor([1])).requires_grad
    with torch.no_grad():
        assert loss_of(model, rows).isfinite()
    assert checkpoint_activations(model, on=False) == 0
    assert counted(model, rows) == before


def test_recomputing_above_a_cached_trunk(folder: Path, trunk_path: Path) -> None:
    model, rows = opened(folder, trained=(2, 3)), draw_rows(7)
    wanted = gradients(model, loss_of(model, rows))
    trunk = Trunk(model, trunk_path, 2**22, "fp32")
    checkpoint_activations(model)
    for _ in range(2):
        assert distance(gradients(model, loss_of(model, rows, trunk)), wanted) <= 1e-5
    trunk.close()
