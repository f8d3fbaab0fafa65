"""Hidden states of chosen layers, kept from a model's last pass over a tree: what another model's are compared with."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from planish.model.backbone import base_of, layers


@dataclass
class Kept:
    """What the layers `numbers` gave, the first layer being 1. Held from a pass until it is taken."""

    numbers: tuple[int, ...]
    _states: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def taken(self, index: Tensor) -> dict[int, Tensor]:
        """(R, H) of each layer at the flat places `index` (R,) of the tree that was computed last; they are let go of. Differentiable."""
        found = {number: self._states[number][0].index_select(0, index) for number in self.numbers}
        self._states.clear()
        return found

    def keep(self, number: int, output: Any) -> None:
        """A layer's output, (1, T, H) or a tuple that begins with it."""
        self._states[number] = output[0] if isinstance(output, tuple) else output


def watch(model: nn.Module, numbers: Seq[int]) -> Kept:
    """Keep what these layers give from now on. What a model has kept is with its scored rows (`policy.Place`)."""
    kept = Kept(tuple(dict.fromkeys(numbers)))
    stack = layers(model)
    for number in kept.numbers:
        stack[number - 1].register_forward_hook(lambda _module, _inputs, output, number=number: kept.keep(number, output))
    base_of(model).planish_kept = kept
    return kept


def kept_of(model: nn.Module) -> Kept | None:
    """What is kept of the model's layers, where something looks at them."""
    found: Kept | None = getattr(base_of(model), "planish_kept", None)
    return found
