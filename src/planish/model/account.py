"""What an adapter trains, as a formula and as a number: counted on the model itself, so that the formula cannot say something else than the number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from planish.errors import InputError, Problem

BESIDE = ("lora_", "ia3_", ".bottleneck.", "virtual.", "class_head.")
"""What in a parameter's name says that it came with an adapter and is no part of the model itself."""


@dataclass(frozen=True)
class Account:
    """`formula` adds up to `trainable`: "30 x (16 x 576) + ...". base counts the model without the adapter; bytes are those of the trained tensors as they are kept."""

    formula: str
    trainable: int
    base: int
    bytes: int

    @property
    def share(self) -> float:
        """Trained parameters over those of the base."""
        return self.trainable / self.base


def account(model: nn.Module) -> Account:
    """Count the trained tensors by shape. A 4-bit weight counts the values that it holds, not its bytes. Raises InputError where nothing is trained."""
    named = dict(model.named_parameters())
    trained = [parameter for parameter in named.values() if parameter.requires_grad]
    if not trained:
        raise InputError(Problem("adapter", "0 parameters would be trained", "name targets that the model has"))
    shapes = Counter(" x ".join(map(str, parameter.shape)) for parameter in trained)
    formula = " + ".join(f"{count} x ({shape})" if count > 1 else f"({shape})" for shape, count in shapes.items())
    base = sum(values(parameter) for name, parameter in named.items() if not any(mark in name for mark in BESIDE))
    return Account(formula, sum(p.numel() for p in trained), base, sum(p.numel() * p.element_size() for p in trained))


def values(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()
