"""What an adapter says of itself while it hangs on a model: how it is saved, what is worth a warning, which of its tensors learn at another rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from planish.model.backbone import base_of


def describe(model: nn.Module, config: dict[str, Any]) -> None:
    """Remember the configuration that the adapter's folder will hold. Only for adapters that PEFT does not wrap."""
    base_of(model).planish_adapter = config


def description(model: nn.Module) -> dict[str, Any] | None:
    """The configuration of an adapter of ours, or None."""
    found: dict[str, Any] | None = getattr(base_of(model), "planish_adapter", None)
    return found


def warn(model: nn.Module, text: str) -> None:
    """Something to say before the run."""
    base = base_of(model)
    base.planish_warnings = (*getattr(base, "planish_warnings", ()), text)


def warnings_of(model: nn.Module) -> tuple[str, ...]:
    """What the adapter has to say before the run."""
    return getattr(base_of(model), "planish_warnings", ())


def learn_faster(model: nn.Module, mark: str, ratio: float) -> None:
    """Let the tensors with `mark` in their name learn at `ratio` times the rate of the others. By name, as spreading a model over ranks makes new tensors of them."""
    base_of(model).planish_rates = {mark: ratio}


def rate_of(model: nn.Module, name: str) -> float:
    """The learning rate of a parameter over the plan's."""
    rates: dict[str, float] = getattr(base_of(model), "planish_rates", {})
    return next((ratio for mark, ratio in rates.items() if mark in name), 1.0)


def round_at_random(model: nn.Module) -> None:
    """Let the optimizer keep no fp32 copy of these weights and round its steps to their format at random."""
    base_of(model).planish_rounding = True


def rounds_at_random(model: nn.Module) -> bool:
    """Whether it does."""
    return bool(getattr(base_of(model), "planish_rounding", False))
