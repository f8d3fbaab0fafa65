"""A trained head on a frozen model: classes, one value or one reward from a pooled hidden state; the text it writes stays the base's."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.model import class_head
from planish.model.backbone import layers
from planish.model.class_head import labels_of_task
from planish.model.described import describe

LEARNING_RATE = 1e-3
MERGES = False
HEAD = True
"""It trains a head: only an objective that reads one of its kind gives it a gradient."""
TRUNK_CACHE_MB = 1024
"""Nothing below it is trained unless `unfreeze` says so: what the frozen layers give is kept, and from the second epoch on read (MISSION A11)."""


def for_task(options: dict[str, Any], task: Task) -> dict[str, Any]:
    """The options with the task's labels, where it is classes that are trained. Raises InputError for a task without labels, or other labels than its own."""
    return labels_of_task("train.adapter.head", options, task) if kind_of(options) == "classification" else options


def kind_of(options: dict[str, Any]) -> str:
    """What the options ask for."""
    return str(options.get("kind", "classification"))


def attach(
    model: nn.Module,
    *,
    kind: Literal["classification", "regression", "reward"] = "classification",
    labels: list[str] | None = None,
    pooling: Literal["last", "mean"] = "last",
    unfreeze: int = 0,
) -> nn.Module:
    """Freeze the model but its last `unfreeze` layers and put a head of H x classes + classes parameters on it; regression and reward have one output.

    At step 0 every class is equally likely and the text the base's. Raises InputError for fewer than two labels, labels twice, or more layers than there are.
    """
    names = labels or []
    problems = []
    if kind == "classification" and len(set(names)) < 2:
        problems.append(Problem("adapter.labels", f"names {len(set(names))} classes", "name every label of the task, at least two"))
    if kind != "classification" and names:
        problems.append(Problem("adapter.labels", f"a {kind} head has one output and no labels", "leave them out"))
    if len(set(names)) < len(names):
        problems.append(Problem("adapter.labels", "has a label twice", "name each once"))
    if not 0 <= unfreeze <= len(layers(model)):
        problems.append(Problem("adapter.unfreeze", f"is {unfreeze}", f"the model has {len(layers(model))} layers"))
    if problems:
        raise InputError(*problems)
    classes = len(names) if kind == "classification" else 1
    class_head.put(model, classes, pooling, unfreeze)
    describe(model, {"peft_type": "HEAD", "kind": kind, "labels": names, "classes": classes, "pooling": pooling, "unfreeze": unfreeze})
    return model
