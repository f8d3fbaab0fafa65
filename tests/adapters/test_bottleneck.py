"""The bottleneck against a forward pass by hand (MISSION A9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.shelf_of_adapters import ROWS, tuned

from planish.model.bottleneck import Bottleneck
from planish.model.layout import use_plain


def test_worked_number() -> None:
    """H = 2, m = 1, ReLU, W_down = (1, -1), b_down = 1, W_up = (2, 3), b_up = (0.5, 0): x = (3, 1) -> down 3 - 1 + 1 = 3 -> (3 + 6.5, 1 + 9) = (9.5, 10).
    x = (1, 3): down 1 - 3 + 1 = -1 -> 0 -> (1.5, 3)."""
    adapter = Bottleneck(2, 1, "relu")
    x = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    assert torch.equal(adapter(x), x)  # W_up is zero at the start
    tensors = {"down.weight": [[1.0, -1.0]], "down.bias": [1.0], "up.weight": [[2.0], [3.0]], "up.bias": [0.5, 0.0]}
    adapter.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
    assert torch.equal(adapter(x), torch.tensor([[9.5, 10.0], [1.5, 3.0]]))


@pytest.mark.parametrize("places", ["mlp", "attention", "both"])
def test_a_layer_by_hand(biased: Path, places: str) -> None:
    """Behind the sub-layer and before the residual sum: h + A(attn(norm h)), then h + M(mlp(norm h))."""
    model: Any = tuned(biased, "bottleneck", places=places)
    use_plain(model)
    kept: dict[str, Any] = {}
    layer = model.model.layers[0]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, named: kept.update(inputs=inputs, named=named), with_kwargs=True),
        layer.register_forward_hook(lambda _, inputs, output: kept.update(output=output)),
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ROWS[0].ids]), use_cache=False)
        for hook in hooks:
            hook.remove()
        x = kept["inputs"][0]

        def behind(part: Any, value: torch.Tensor) -> torch.Tensor:
            if not hasattr(part, "bottleneck"):
                return value
            inner = torch.nn.functional.gelu(value @ part.bottleneck.down.weight.t() + part.bottleneck.down.bias)
            return value + inner @ part.bottleneck.up.weight.t() + part.bottleneck.up.bias

        attention = type(layer.self_attn).forward(layer.self_attn, hidden_states=layer.input_layernorm(x), **kept["named"])[0]
        x = x + behind(layer.self_attn, attention)
        x = x + behind(layer.mlp, type(layer.mlp).forward(layer.mlp, layer.post_attention_layernorm(x)))
    output = kept["output"]
    assert torch.allclose(output[0] if isinstance(output, tuple) else output, x, atol=1e-6)
