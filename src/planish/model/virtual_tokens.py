"""Learned tokens that no text holds: embeddings before every row, or keys and values before every layer's own (arXiv 2104.08691, 2103.10385, 2101.00190).

They hang on the backbone itself, so that the prefix tree, plain rows and generation with a cache all see them: on a tree they are one segment above every root, computed once for
the whole micro-batch. PEFT's own wrapper would add them again at every step of a generation that it does not drive.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from planish.data.tree import Segment, Tree
from planish.errors import InputError, Problem
from planish.model.backbone import backbone, base_of
from planish.model.described import warn


class VirtualTokens(nn.Module):
    """`count` virtual tokens from `encoder`, whose forward gives (count, H) embeddings, or (count, layers * 2 * kv) keys and values where `keys` is set."""

    _embed: Any
    _config: Any

    def __init__(self, encoder: nn.Module, count: int, keys: bool = False) -> None:
        super().__init__()
        self.encoder, self.count, self.keys = encoder, count, keys
        self._inserted = False

    def put(self, model: Any) -> None:
        """Hang on a model's backbone. `model.virtual` is this module."""
        base = base_of(model)
        base.add_module("virtual", self)
        object.__setattr__(self, "_embed", base.get_input_embeddings())  # not a part of this module: its weights are the model's
        object.__setattr__(self, "_config", base.config)
        backbone(base).register_forward_pre_hook(self._before, with_kwargs=True)
        backbone(base).register_forward_hook(self._after)

    def _before(self, module: nn.Module, inputs: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Change a call of the backbone: places shift, a mask grows, and the first call of a row gets the tokens themselves."""
        given = dict(zip(inspect.signature(module.forward).parameters, inputs, strict=False)) | given  # GPT-2's heads call by place
        ids, embeds, past = given.get("input_ids"), given.get("inputs_embeds"), given.get("past_key_values")
        first = past is None or past.get_seq_length() == 0
        rows = len(given["input_ids" if ids is not None else "inputs_embeds"])
        if given.get("position_ids") is not None:
            given["position_ids"] = given["position_ids"] + self.count
        if isinstance(given.get("attention_mask"), Tensor):
            given["attention_mask"] = torch.nn.functional.pad(given["attention_mask"], (self.count, 0), value=1)
        self._inserted = first and not self.keys
        if not first:
            return (), given
        if self.keys:
            self._give_keys(given, rows, past)
        else:
            own = self._embed(ids) if embeds is None else embeds
            given["input_ids"], given["inputs_embeds"] = None, torch.cat([self.encoder().to(own.dtype).expand(rows, -1, -1), own], 1)
            if given.get("position_ids") is not None:
                before = torch.arange(self.count, device=own.device).expand(rows, -1)
                given["position_ids"] = torch.cat([before, given["position_ids"].expand(rows, -1)], 1)
        return (), given

    def _give_keys(self, given: dict[str, Any], rows: int, past: Any) -> None:
        pairs = self.pairs(rows, next(iter(self._embed.parameters())).dtype)
        if given.get("use_cache") or past is not None:
            cache = DynamicCache(config=self._config) if past is None else past
            for layer, (key, value) in enumerate(pairs):
                cache.update(key, value, layer)
            given["past_key_values"] = cache
        else:
            given["past_key_values"] = _Before(pairs, self.count)
        if given.get("tree_plan") is not None:
            given["tree_plan"] = _Below(given["tree_plan"], self.count)

    def pairs(self, rows: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values: (rows, kv heads, count, d) both. The layout is PEFT's."""
        layers, heads, _ = key_shape(self._config)
        flat = self.encoder().to(dtype).view(self.count, 2 * layers, heads, -1).permute(1, 2, 0, 3)
        return [(flat[2 * layer].expand(rows, -1, -1, -1), flat[2 * layer + 1].expand(rows, -1, -1, -1)) for layer in range(layers)]

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._inserted:
            output.last_hidden_state = output.last_hidden_state[:, self.count :]
        return output


class Table(nn.Module):
    """Rows that are learned as they are: (count, width)."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start)

    def forward(self) -> Tensor:
        """(count, width)."""
        return self.weight


class Through(nn.Module):
    """PEFT's prompt encoder, asked for all its tokens."""

    def __init__(self, encoder: nn.Module, count: int) -> None:
        super().__init__()
        self.encoder, self.count = encoder, count

    def forward(self) -> Tensor:
        """(count, H)."""
        found: Tensor = self.encoder(torch.arange(self.count, device=next(self.encoder.parameters()).device))
        return found


def key_shape(config: Any) -> tuple[int, int, int]:
    """(layers, key heads, width of a head) of a model's key-value cache."""
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    return int(config.num_hidden_layers), heads, int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def virtual_of(model: nn.Module) -> VirtualTokens | None:
    """The model's virtual tokens, where it has any."""
    found: VirtualTokens | None = getattr(base_of(model), "virtual", None)
    return found


def rooted(tree: Tree, model: nn.Module) -> Tree:
    """The tree with the model's virtual tokens as one segment above every root, or the tree itself. Its scored places and targets are those of the longer flat order."""
    virtual = virtual_of(model)
    if virtual is None:
        return tree
    count = virtual.count
    below = tuple(Segment(segment.parent + 1, segment.start + count, segment.length, segment.depth + count) for segment in tree.segments)
    return replace(
        tree,
        ids=np.concatenate([np.zeros(count, np.int64), tree.ids]),
        positions=np.concatenate([np.arange(count), tree.positions + count]),
        segments=(Segment(-1, 0, count, 0), *below),
        scored_at=tree.scored_at + count,
    )


class _Before(DynamicCache):
    """A key-value cache that remembers nothing but what stands before: a layer may be computed twice (recomputed activations) and sees the same."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], count: int) -> None:
        super().__init__()
        self._pairs, self._count = pairs, count

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        key, value = self._pairs[layer_idx]
        return torch.cat([key.to(key_states.dtype), key_states], 2), torch.cat([value.to(value_states.dtype), value_states], 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._count

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        own = query_length if isinstance(query_length, int) else len(query_length)
        return self._count + own, 0


@dataclass(frozen=True)
class _Below:
    """A tree plan whose first `count` tokens have keys and no queries."""

    plan: Any
    count: int

    def attend(self, query: Tensor, *rest: Any) -> Tensor:
        whole: Callable[..., Tensor] = self.plan.attend
        return whole(torch.nn.functional.pad(query, (0, 0, self.count, 0)), *rest)[:, self.count :]


def refuse_long(model: nn.Module, tokens: int, share: float) -> None:
    """Raises InputError for fewer than one token, or where they fill more than `share` of the context, or all of it."""
    context = _context(model)
    most = None if context is None else min(int(share * context), context - 1)
    if tokens < 1 or (most is not None and tokens > most):
        of = "" if context is None else f" of a context of {context}"
        raise InputError(Problem("adapter.tokens", f"{tokens} virtual tokens{of}", "give at least 1" if most is None else f"give 1 to {most}"))


def tell_length(model: nn.Module, tokens: int) -> None:
    """Say what the tokens take from the context."""
    context = _context(model)
    if context is not None:
        warn(model, f"{tokens} virtual tokens leave {context - tokens:,} of {context:,} places of the context")


def _context(model: nn.Module) -> int | None:
    found = getattr(base_of(model).config, "max_position_embeddings", None)
    return int(found) if found else None
