"""The LM head as a value: matrix, bias, and what a family does to the logits behind it (Gemma 2 caps them, Granite and Cohere scale them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from planish.model.backbone import base_of


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (h W^T + b)) with cap(z) = softcap * tanh(z / softcap), or z without a soft cap.

    weight: (V, H). bias: (V,). `module` is set where the head is more than a linear layer (an adapter sits on it): then it is called instead, and is never frozen.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    module: nn.Module | None = None

    @property
    def frozen(self) -> bool:
        """Whether no part of the head is trained."""
        return self.module is None and not self.weight.requires_grad and not (self.bias is not None and self.bias.requires_grad)

    def logits(self, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
        """hidden (R, H) -> (R, V) in fp32 at least, or (R, len(tokens)) for these token ids only. Differentiable."""
        if self.module is not None:
            raw = self.module(hidden)
            raw = raw if tokens is None else raw[:, tokens]
        else:
            weight, bias = (self.weight, self.bias) if tokens is None else (self.weight[tokens], None if self.bias is None else self.bias[tokens])
            raw = hidden @ weight.t().to(hidden.dtype)
            raw = raw if bias is None else raw + bias
        return self.shape(raw.to(wide(raw)))

    def shape(self, raw: Tensor) -> Tensor:
        """What the family does to h W^T + b. May give `raw` itself back."""
        raw = raw if self.scale == 1.0 else raw * self.scale
        return raw if self.softcap is None else self.softcap * torch.tanh(raw / self.softcap)


def head_of(model: nn.Module) -> Head:
    """The head of a causal model, adapters and all."""
    base = base_of(model)
    module, config = base.get_output_embeddings(), base.config
    plain = type(module) is nn.Linear
    return Head(
        weight=module.weight,
        bias=getattr(module, "bias", None) if plain else None,
        scale=_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None),
        module=None if plain else module,
    )


def wide(tensor: Tensor) -> torch.dtype:
    """Sums over the vocabulary are made in fp32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _scale(config: Any) -> float:
    """Granite divides its logits, Cohere multiplies them; each by its own key. Any other family's way is found out by the check at load."""
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
