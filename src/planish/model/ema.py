"""An exponential moving average of the trained weights: a_t = d a_(t-1) + (1 - d) w_t, what is validated and delivered when it is asked for (arXiv 1806.05594)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from planish.model.optimizer import trainable


class Average:
    """The average of a model's trained tensors, begun at their present values. `tensors` are in the weights' own type and placement."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        for name, parameter in trainable(model).items():
            self.tensors[name].lerp_(parameter.detach(), 1 - self.decay)

    @torch.no_grad()
    def put(self, model: nn.Module) -> None:
        """Make the average the model's weights."""
        for name, parameter in trainable(model).items():
            parameter.copy_(self.tensors[name])

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The average as the model's weights while the context lasts; then the trained ones again, bit for bit."""
        kept = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
        self.put(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trainable(model).items():
                    parameter.copy_(kept[name])
