"""A head of classes, of one value or of one reward on a causal model's hidden states, and the pooled states of rows that it reads (MISSION A11)."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Any, Literal

import torch
from torch import Tensor, nn

from planish.data.task import Task
from planish.data.tree import Sequence, build
from planish.errors import InputError, Problem
from planish.model.backbone import base_of, layers
from planish.model.policy import hidden_states
from planish.model.tree_forward import autocast

Pooling = Literal["last", "mean"]


class ClassHead(nn.Module):
    """(N, H) -> (N, classes) in fp32. Zero at the start: every class is equally likely, every value and reward 0."""

    def __init__(self, width: int, classes: int, pooling: Pooling, device: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes, device=device)
        self.pooling: Pooling = pooling
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, classes)."""
        with torch.autocast(features.device.type, enabled=False):
            found: Tensor = self.linear(features.float())
        return found


def put(model: nn.Module, classes: int, pooling: Pooling, unfreeze: int) -> None:
    """Freeze the model but its last `unfreeze` layers, which are kept in fp32, and hang the head on it as `class_head`."""
    model.requires_grad_(False)
    for layer in list(layers(model))[len(layers(model)) - unfreeze :]:
        layer.float().requires_grad_(True)
    base = base_of(model)
    base.add_module("class_head", ClassHead(base.config.hidden_size, classes, pooling, next(base.parameters()).device))


def pooled(model: nn.Module, rows: Seq[Seq[int]], precision: str, device: torch.device | str = "cpu", pooling: Pooling = "last") -> Tensor:
    """The last token's final hidden state of every row, or the mean over its tokens: (N, H). Differentiable; a prefix that rows share is computed once."""
    return _pool(model, rows, precision, device, pooling)[-1]


def by_layer(model: nn.Module, rows: Seq[Seq[int]], precision: str, device: torch.device | str = "cpu", pooling: Pooling = "last") -> list[Tensor]:
    """The same behind every decoder layer and, last, behind the final norm: layers + 1 of (N, H)."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0].detach())

    hooks = [layer.register_forward_hook(keep) for layer in layers(model)]
    try:
        with torch.no_grad():
            return _pool(model, rows, precision, device, pooling, found)
    finally:
        for hook in hooks:
            hook.remove()


def class_logits(model: nn.Module, rows: Seq[Seq[int]], precision: str, device: torch.device | str = "cpu") -> Tensor:
    """The head's answer to every row: (N, classes), differentiable through whatever is trained."""
    head: Any = base_of(model).class_head
    found: Tensor = head(pooled(model, rows, precision, device, head.pooling))
    return found


def labels_of_task(where: str, options: dict[str, Any], task: Task) -> dict[str, Any]:
    """Recipe options of a classification with the task's labels in their order. Raises InputError for a task that is none, and for labels that are not its own in its order."""
    given = options.get("labels")
    if task.shape != "classification":
        raise InputError(Problem(where, f"classes need a classification task, and this one is {task.shape}", "give rows with text and label, or train by sft"))
    if given is not None and tuple(given) != task.labels:
        raise InputError(Problem(f"{where}.labels", f"are not the task's: {', '.join(task.labels)}", "leave them out: they are taken from data.labels"))
    return {**options, "labels": list(task.labels)}


def number(text: str) -> float | None:
    """The finite number that a label is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def pool(states: Tensor, sequence: Tensor, count: int, pooling: Pooling) -> Tensor:
    """One vector for each of `count` rows from the states of their tokens, which stand row by row: (R, H) and (R,) -> (count, H) fp32. The last one, or their mean."""
    tokens = torch.bincount(sequence, minlength=count)
    if pooling == "last":
        return states[tokens.cumsum(0) - 1].float()
    total = torch.zeros(count, states.size(-1), device=states.device).index_add(0, sequence, states.float())
    return total / tokens[:, None]


def read_whole(row: Seq[int], given: tuple[float, ...] = ()) -> Sequence:
    """A row whose tokens are all read; the one behind them is only there because the tree has a target for what it scores."""
    return Sequence((*row, 0), (0.0, *[1.0] * len(row)), given)


def _pool(
    model: nn.Module, rows: Seq[Seq[int]], precision: str, device: torch.device | str, pooling: Pooling, inner: list[Tensor] | None = None
) -> list[Tensor]:
    tree = build([read_whole(row) for row in rows])
    with autocast(precision, device):
        last = hidden_states(model, tree, device)
    at, row = (torch.from_numpy(array).to(device) for array in (tree.scored_at, tree.sequence))
    return [pool(states[at], row, len(rows), pooling) for states in (*(inner or []), last)]
