"""IA3: learned scales on keys, values and the input of the feed-forward output, which start at 1; a few ten thousand parameters (arXiv 2205.05638)."""

from __future__ import annotations

from typing import Any

from torch import nn

from planish.errors import InputError, Problem
from planish.model.low_rank import wrapped
from planish.model.targets import chosen, linear_layers, numbers, transposed

LEARNING_RATE = 3e-3
MERGES = True
KEYS_AND_VALUES = ("k_proj", "v_proj", "key", "value", "c_attn", "query_key_value", "qkv_proj")
FEED_FORWARD = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2", "wo", "w2")


def attach(model: nn.Module, *, targets: list[str] | None = None, feed_forward: list[str] | None = None, layers: str | list[int] | None = None) -> Any:
    """Freeze the model and scale the outputs of `targets` and the inputs of `feed_forward`; what is not given is found by its usual names.

    Raises InputError where the model has no such layer.
    """
    from peft import IA3Config

    scaled, fed = targets or _usual(model, KEYS_AND_VALUES), feed_forward or _usual(model, FEED_FORWARD)
    held = list(dict.fromkeys(name.rpartition(".")[2] for name in linear_layers(model)))
    problems = [
        Problem(f"adapter.{key}", f"no layer is known as the {what}; the model has {', '.join(held)}", "name them")
        for key, what, found in (("targets", "keys and values", scaled), ("feed_forward", "output of the feed-forward part", fed))
        if not found
    ]
    if problems:
        raise InputError(*problems)
    which = numbers(model, layers)
    fed_layers = chosen(model, fed, which)
    every = chosen(model, scaled, which) | fed_layers
    config = IA3Config(target_modules=sorted(every), feedforward_modules=sorted(fed_layers), fan_in_fan_out=transposed(every), task_type="CAUSAL_LM")
    return wrapped(model, config)


def _usual(model: nn.Module, ends: tuple[str, ...]) -> list[str]:
    names = list(linear_layers(model))
    return [end for end in ends if any(name.endswith(f".{end}") for name in names)]
