"""The ranks that share a run's work: each computes its part of every batch, and all hold the same step (MISSION X6, T6).

`ddp` keeps the model whole on every rank and sums gradients once a step, after the last micro-batch. `fsdp` spreads weights, gradients and optimizer state over the
ranks, one decoder layer at a time (FSDP2, torch.distributed.fsdp.fully_shard). Rows go to ranks by their place in the batch; the divisor of the loss is that of the
whole batch, so the number of ranks changes nothing but the order of sums. A lone process is a world of one and talks to nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from planish.data.tree import Tree
from planish.errors import Problem
from planish.model.backbone import layers
from planish.model.example import Loss
from planish.model.optimizer import trainable
from planish.model.policy import Scored, score
from planish.model.trunk import Trunk

T = TypeVar("T")
BUCKET = 2**23
"""Values summed over the ranks in one message."""

Forward = Callable[[Tree], Loss]
"""A micro-batch's loss, from the tokens up."""


@dataclass(frozen=True)
class Ranks:
    """This process among `world`. `shard` says how the model lies on them."""

    rank: int = 0
    world: int = 1
    shard: Literal["ddp", "fsdp"] = "ddp"
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    @property
    def in_step(self) -> bool:
        """Whether all ranks must run equally many forward passes: each gathers the layers that the others hold."""
        return self.world > 1 and self.shard == "fsdp"

    def mine(self, items: Seq[T]) -> list[T]:
        """This rank's part of a batch."""
        return list(items[self.rank :: self.world])

    def total(self, *values: float) -> list[float]:
        """Each value summed over the ranks, in fp64."""
        if self.world == 1:
            return list(values)
        held = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(held)
        return [float(value) for value in held]

    def most(self, value: int) -> int:
        """The largest value of any rank."""
        if self.world == 1:
            return value
        held = torch.tensor(value, device=self.device)
        dist.all_reduce(held, op=dist.ReduceOp.MAX)
        return int(held)

    def gather(self, value: Tensor) -> list[Tensor]:
        """The same-shaped tensor of every rank, by rank, on the CPU."""
        if self.world == 1:
            return [value]
        held = [torch.empty_like(value, device=self.device) for _ in range(self.world)]
        dist.all_gather(held, value.to(self.device))
        return [one.cpu() for one in held]

    def wait(self) -> None:
        """Go on when every rank has come here."""
        if self.world > 1:
            dist.barrier()

    @property
    def gradient_scale(self) -> float:
        """What a loss is multiplied by before its backward pass: FSDP averages gradients over the ranks, and ours are parts of one sum."""
        return float(self.world) if self.in_step else 1.0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The sum over the ranks of every gradient, in place. FSDP has done it already, in its backward pass."""
        if self.world == 1 or self.shard == "fsdp":
            return
        bucket: list[nn.Parameter] = []
        for parameter in parameters:
            if parameter.grad is None:  # this rank had no row in the batch
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (parameter.grad.dtype != bucket[0].grad.dtype or sum(p.numel() for p in bucket) + parameter.numel() > BUCKET):  # type: ignore[union-attr]
                _sum(bucket)
                bucket = []
            bucket.append(parameter)
        _sum(bucket)

    def forward(self, model: nn.Module, precision: str, loss: Callable[[Scored], Loss], trunk: Trunk | None = None) -> Forward:
        """The loss of a tree, the same weights on every rank; under fsdp the model is spread over the ranks from here on, in place, and no `trunk` is cached."""
        if self.world > 1 and not is_spread(model):
            with torch.no_grad():
                for parameter in trainable(model).values():
                    dist.broadcast(parameter, 0)
        if not self.in_step:
            return lambda tree: loss(score(model, tree, precision, self.device, trunk=trunk))
        root = _spread(model, self.device, self.world)
        return lambda tree: Loss(*root(tree, precision, loss))


ALONE = Ranks()


def refusals(ranks: Ranks, *, batch_size: int, optimizer: str, precision: str) -> list[Problem]:
    """What this many ranks cannot share, with the fix."""
    problems = []
    if batch_size % ranks.world:
        why = f"{batch_size} rows do not divide over {ranks.world} ranks"
        problems.append(Problem("train.batch_size", why, f"make it a multiple of {ranks.world}, or change launch.ranks"))
    if ranks.in_step and optimizer == "adamw_8bit":
        why = "8-bit moments are quantised in blocks that do not follow the shards of fsdp"
        problems.append(Problem("train.optimizer", why, "use adamw, or launch: {shard: ddp}"))
    if ranks.in_step and precision == "fp16":
        problems.append(Problem("train.precision", "the fp16 loss scale is not kept in step over the shards of fsdp", "use bf16, or launch: {shard: ddp}"))
    return problems


def join(shard: Literal["ddp", "fsdp"] = "ddp", meet: Path | None = None) -> Ranks:
    """Enter the world that torchrun made, whose environment names this rank and the address to meet at; or, on one machine, meet at a file that no one else uses, so that
    no port is opened to the network. NCCL on GPUs, gloo on CPUs."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    method = "env://" if meet is None else f"file://{meet}"
    dist.init_process_group("gloo" if device == "cpu" else "nccl", init_method=method, rank=rank, world_size=world)
    return Ranks(rank, world, shard, device)


def leave() -> None:
    """Leave the world."""
    dist.destroy_process_group()


def whole(value: Tensor) -> Tensor:
    """All of a tensor that may be spread over the ranks. Every rank must ask."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor laid out as `like` is, on its device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)


def is_spread(model: nn.Module) -> bool:
    """Whether the model lies spread over ranks."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def _sum(bucket: list[nn.Parameter]) -> None:
    if bucket:
        flat = torch.cat([parameter.grad.flatten() for parameter in bucket])  # type: ignore[union-attr]
        dist.all_reduce(flat)
        for parameter, part in zip(bucket, flat.split([parameter.numel() for parameter in bucket]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))  # type: ignore[union-attr]


class _Root(nn.Module):
    """The whole forward pass as one module, head and loss included: FSDP gathers what lies outside the layers when it is called."""

    def __init__(self, model: nn.Module, device: str) -> None:
        super().__init__()
        self.model, self.device = model, device

    def forward(self, tree: Tree, precision: str, loss: Callable[[Scored], Loss]) -> tuple[Any, ...]:
        found = loss(score(self.model, tree, precision, self.device))
        return found.total, found.metrics, found.counts, found.relations


def _spread(model: nn.Module, device: str, world: int) -> nn.Module:
    """The model's root, spread over the ranks; a model is spread once."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    held = vars(model)  # past nn.Module's own attribute hook: a module that had its root as a part would be a cycle
    if "_spread_root" not in held:
        mesh = init_device_mesh(torch.device(device).type, (world,))
        for layer in layers(model):
            fully_shard(layer, mesh=mesh)
        held["_spread_root"] = _Root(model, device)
        fully_shard(held["_spread_root"], mesh=mesh)
    root: nn.Module = held["_spread_root"]
    return root
