"""A trained head on a frozen model: classes, one value or one reward from a pooled hidden state; the text it writes stays the base's."""

from __future__ import annotations

from typing import Literal

from torch import nn

from planish.errors import InputError, Problem
from planish.model import class_head
from planish.model.backbone import layers
from planish.model.described import describe

LEARNING_RATE = 1e-3
MERGES = False
HEAD = True
"""It trains a head: only an objective that reads one gives it a gradient."""


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
