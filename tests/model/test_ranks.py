"""The same loop on two ranks (MISSION X6, T6): gloo on the loopback interface, the tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.runs import examples, plan
from torch import nn

from planish.adapters import full, lora
from planish.errors import InputError
from planish.model import loop
from planish.model.example import Example
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.ranks import ALONE, Ranks, join, leave, whole
from planish.objectives import sft

Shard = Literal["ddp", "fsdp"]


def wide_norms(model: nn.Module) -> nn.Module:
    """fp64 throughout: transformers' own RMSNorm goes by way of fp32."""
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = lambda x, m=module: m.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon)  # type: ignore[assignment,misc]
    return model.double()


def built(tiny: Path, dtype: str, adapter: str) -> nn.Module:
    model = load(tiny, "fp32", trained=adapter == "full")
    torch.manual_seed(3)
    if adapter == "full":
        model = full.attach(model)
    else:
        model = lora.attach(model, r=4)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return wide_norms(model) if dtype == "fp64" else model


class Cut(list[Example]):
    """Examples that end the run, on every rank alike, when the `limit`-th has been handed out."""

    def __init__(self, given: list[Example], limit: int | None) -> None:
        super().__init__(given)
        self.left = limit

    def __getitem__(self, index: Any) -> Any:
        if self.left is not None:
            if self.left == 0:
                raise InterruptedError
            self.left -= 1
        return super().__getitem__(index)


def trained(tiny: Path, folder: Path, dtype: str, adapter: str, ranks: Ranks, limit: int | None = None, **given: Any) -> None:
    """Five steps, validation included; the first rank leaves weights and losses in `folder`."""
    model = built(tiny, dtype, adapter)
    lines: list[loop.Step] = []

    made = plan(21, max_steps=5, validations=5, checkpoints=5, micro_tokens=24, learning_rate=1e-3, **given)
    rows, checks = Cut(examples(21), limit), examples(3)  # the last batch of an epoch has 5 rows: ranks get 3 and 2
    loop.train(model, rows, sft.loss, made, folder, meaning={}, validation=checks, on_step=lines.append, ranks=ranks)
    weights = {name: whole(parameter.detach()).contiguous() for name, parameter in trainable(model).items()}
    if ranks.first:
        save_file(weights, folder / "weights.safetensors")
        (folder / "losses.json").write_text(json.dumps([[line.step, line.loss, line.validation_loss, line.grad_norm, line.tokens_in] for line in lines]))


def rank(index: int, folder: Path, work: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
    """What one spawned process does: each piece of work in one world."""
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    world = join(meet=folder / "meet")
    for shard, given, more in work:
        try:
            trained(*given, Ranks(world.rank, 2, shard), **more)  # type: ignore[arg-type]
        except InterruptedError:
            continue
    leave()


def two_ranks(folder: Path, work: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
    torch.multiprocessing.spawn(rank, (folder, work), nprocs=2)  # type: ignore[no-untyped-call]


def apart(one: Path, two: Path) -> tuple[float, float]:
    """Relative difference of the weights, and the largest of any figure of any step."""
    first, second = (load_file(path / "weights.safetensors") for path in (one, two))
    ours, theirs = (torch.cat([held[name].flatten().double() for name in sorted(first)]) for held in (first, second))
    figures = [torch.tensor(json.loads((path / "losses.json").read_text()), dtype=torch.float64) for path in (one, two)]
    assert torch.equal(figures[0][:, [0, 4]], figures[1][:, [0, 4]])  # steps, and tokens over all ranks
    return float((ours - theirs).norm() / ours.norm()), float(((figures[0] - figures[1]).abs() / figures[0].abs()).max())


@pytest.mark.slow
def test_x6_two_ranks_equal_one(tiny: Path, tmp_path: Path) -> None:
    """MISSION X6, proof: losses, gradient norms, validation and weights over 5 steps equal one process's: 1e-5 in fp32, 1e-9 in fp64; LoRA and full, DDP and FSDP2."""
    cases = [(dtype, adapter) for dtype in ("fp32", "fp64") for adapter in ("lora", "full")]
    work = [(shard, (tiny, tmp_path / f"{shard}-{dtype}-{adapter}", dtype, adapter), {}) for shard in ("ddp", "fsdp") for dtype, adapter in cases]
    two_ranks(tmp_path, work)
    for dtype, adapter in cases:
        trained(tiny, tmp_path / f"one-{dtype}-{adapter}", dtype, adapter, ALONE)
        for shard in ("ddp", "fsdp"):
            weights, figures = apart(tmp_path / f"one-{dtype}-{adapter}", tmp_path / f"{shard}-{dtype}-{adapter}")
            limit = 1e-5 if dtype == "fp32" else 1e-9
            assert weights <= limit, (shard, dtype, adapter)
            assert figures <= limit, (shard, dtype, adapter)


@pytest.mark.slow
def test_x6_saved_by_two_resumed_by_one_and_back(tiny: Path, tmp_path: Path) -> None:
    """A checkpoint holds whole tensors: begun on two ranks (DDP, FSDP) and ended by one, and begun by one and ended on two; as uninterrupted, to 1e-9 in fp64."""
    trained(tiny, tmp_path / "one", "fp64", "lora", ALONE, ema=0.9)
    places = {name: tmp_path / name for name in ("ddp-then-one", "fsdp-then-one", "one-then-ddp", "one-then-fsdp", "fsdp-then-ddp")}
    cut, ema = {"limit": 21, "ema": 0.9}, {"ema": 0.9}
    with pytest.raises(InterruptedError):
        trained(tiny, places["one-then-ddp"], "fp64", "lora", ALONE, 21, ema=0.9)
    with pytest.raises(InterruptedError):
        trained(tiny, places["one-then-fsdp"], "fp64", "lora", ALONE, 21, ema=0.9)
    (tmp_path / "first").mkdir()
    # 21 rows are an epoch, which is three steps
    begun = [("ddp", "ddp-then-one", cut), ("fsdp", "fsdp-then-one", cut), ("fsdp", "fsdp-then-ddp", cut)]
    rest = [("ddp", "one-then-ddp", ema), ("fsdp", "one-then-fsdp", ema), ("ddp", "fsdp-then-ddp", ema)]
    two_ranks(tmp_path / "first", [(shard, (tiny, places[name], "fp64", "lora"), more) for shard, name, more in begun + rest])
    for name in ("ddp-then-one", "fsdp-then-one"):
        trained(tiny, places[name], "fp64", "lora", ALONE, ema=0.9)
    for place in places.values():
        whole_run, half = (load_file(path / "weights.safetensors") for path in (tmp_path / "one", place))
        steps = [line[0] for line in json.loads((place / "losses.json").read_text())]
        assert steps == [4, 5], place.name
        assert all(torch.allclose(half[key], whole_run[key], rtol=1e-9, atol=1e-12) for key in whole_run), place.name


@pytest.mark.slow
def test_x6_under_torchrun(tiny: Path, tmp_path: Path) -> None:
    """`torchrun --nproc-per-node 2` itself: its environment is all that `join` needs; the figures are those of one process."""
    script = tmp_path / "train.py"
    lines = [
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)",
        "from planish.model.ranks import join, leave",
        "from tests.model.test_ranks import trained",
        f"trained(Path({str(tiny)!r}), Path({str(tmp_path / 'two')!r}), 'fp32', 'lora', join('fsdp')); leave()",
    ]
    script.write_text("\n".join(lines), encoding="utf-8")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--local-addr", "127.0.0.1", str(script)], env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trained(tiny, tmp_path / "one", "fp32", "lora", ALONE)
    assert max(apart(tmp_path / "one", tmp_path / "two")) <= 1e-5


def test_x6_what_ranks_cannot_share_is_refused(tiny: Path, tmp_path: Path) -> None:
    """MISSION X6: unequal shards are refused; so are 8-bit moments and the fp16 scale under fsdp. All at once."""
    made = plan(optimizer="adamw_8bit", precision="fp16")
    with pytest.raises(InputError) as refused:
        loop.train(built(tiny, "fp32", "lora"), examples(), sft.loss, made, tmp_path, meaning={}, ranks=Ranks(0, 3, "fsdp"))
    assert [problem.where for problem in refused.value.problems] == ["train.batch_size", "train.optimizer", "train.precision"]
    assert not list(tmp_path.iterdir())


def test_x6_every_row_goes_to_one_rank() -> None:
    rows = list(range(7))
    assert [Ranks(index, 3).mine(rows) for index in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
