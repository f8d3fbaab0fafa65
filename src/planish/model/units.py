"""What of a decoder can be taken out whole: layers, groups of attention heads, MLP channels, vocabulary rows; where each lies in which tensor; what is left over (MISSION Z9).

A unit of attention is a key-value head with every query head that reads it: under grouped-query attention a lone query head cannot go, as its group would be uneven.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.safetensors_header import Entry

LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
PART = re.compile(r"^(self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.(weight|bias)$")
BY_LAYER = ("layer_types", "no_rope_layers")
"""Lists of a configuration with one entry a layer."""
GUESSED_BY_LAYER = ("sliding_window_pattern", "use_sliding_window", "no_rope_layer_interval")
"""Keys from which a family works out such a list by a layer's number, where the list itself is not written."""


@dataclass(frozen=True)
class Units:
    """How many units a checkpoint has. `queries` are the query heads of one group, `width` the values of one head."""

    layers: int
    groups: int
    queries: int
    width: int
    channels: int
    vocabulary: int


@dataclass(frozen=True)
class Cut:
    """What is kept of a checkpoint: source layers; for each of them, groups and channels; vocabulary ids in their new order (None: all, as they are)."""

    layers: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    channels: tuple[tuple[int, ...], ...]
    vocabulary: tuple[int, ...] | None = None


def units_of(config: Mapping[str, Any], entries: Mapping[str, Entry], where: str) -> Units:
    """The units of a checkpoint with the tensors of the Llama layout (Llama, SmolLM, Mistral, Qwen, Gemma). Raises InputError with every tensor that is not of it."""
    missing = [key for key in ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size") if not _whole(config.get(key))]
    if missing:
        raise InputError(
            *(Problem(f"{where}/config.json: {key}", "is no whole number of units", "give a plain decoder in the Llama layout") for key in missing)
        )
    heads, groups = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    found = Units(config["num_hidden_layers"], groups, heads // groups, width, config["intermediate_size"], config["vocab_size"])
    problems = [
        Problem(f"{where}: {name}", why, "prune a plain decoder in the Llama layout") for name, entry in entries.items() if (why := _odd(name, entry, found))
    ]
    named = {int(match[1]) for name in entries if (match := LAYER.match(name))}
    if named != set(range(found.layers)):
        problems.append(Problem(f"{where}/config.json: num_hidden_layers", f"says {found.layers}, the weights have {len(named)}", "save the model again"))
    if heads % groups:
        problems.append(Problem(f"{where}/config.json: num_key_value_heads", f"{groups} does not divide {heads} heads", "save the model again"))
    if config.get("auto_map"):
        problems.append(
            Problem(f"{where}/config.json: auto_map", "the model needs code of its own, which is never run", "use a family that transformers knows")
        )
    if problems:
        raise InputError(*problems[:8])
    return found


def _whole(given: Any) -> bool:
    return type(given) is int and given > 0


def _odd(name: str, entry: Entry, units: Units) -> str:
    """Why a tensor is not what the Llama layout has under this name; empty when it is."""
    if name in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
        return "" if entry.shape[0] == units.vocabulary else f"has {entry.shape[0]} rows, the vocabulary {units.vocabulary}"
    match = LAYER.match(name)
    rest = match[2] if match else name
    if name == "model.norm.weight" or (match and rest.endswith(("norm.weight", "norm.bias")) and len(entry.shape) == 1):
        return ""
    part = PART.match(rest) if match else None
    if part is None:
        return "has units that planish does not know"
    rows, columns = _sizes(part[1], units)
    if rows is not None and entry.shape[0] != rows:
        return f"has {entry.shape[0]} rows, its units {rows}"
    if columns is not None and part[2] == "weight" and entry.shape[1] != columns:
        return f"has {entry.shape[1]} columns, its units {columns}"
    return ""


def _sizes(part: str, units: Units) -> tuple[int | None, int | None]:
    """Rows and columns that belong to units; None for the side that faces the hidden state."""
    queries, keys = units.groups * units.queries * units.width, units.groups * units.width
    return {
        "self_attn.q_proj": (queries, None),
        "self_attn.k_proj": (keys, None),
        "self_attn.v_proj": (keys, None),
        "self_attn.o_proj": (None, queries),
        "mlp.gate_proj": (units.channels, None),
        "mlp.up_proj": (units.channels, None),
        "mlp.down_proj": (None, units.channels),
    }[part]


def whole(units: Units) -> Cut:
    """The cut that takes nothing."""
    return Cut(tuple(range(units.layers)), (tuple(range(units.groups)),) * units.layers, (tuple(range(units.channels)),) * units.layers)


def kept_best(scores: Tensor, count: int) -> tuple[int, ...]:
    """The `count` positions with the highest scores, ascending; of equal ones the first. Raises InputError for scores that are no numbers."""
    if not bool(torch.isfinite(scores).all()):
        raise InputError(Problem("importance", "holds scores that are not finite", "score the units on other rows"))
    return tuple(sorted(torch.sort(scores, descending=True, stable=True).indices[:count].tolist()))


def without_layers(cut: Cut, keep: tuple[int, ...]) -> Cut:
    """The cut with only these of its source layers."""
    at = [cut.layers.index(layer) for layer in keep]
    return replace(cut, layers=keep, groups=tuple(cut.groups[i] for i in at), channels=tuple(cut.channels[i] for i in at))


def renamed(name: str, cut: Cut) -> str | None:
    """What a source tensor is called in the result; None where it goes with its layer."""
    match = LAYER.match(name)
    if match is None:
        return name
    layer = int(match[1])
    return f"model.layers.{cut.layers.index(layer)}.{match[2]}" if layer in cut.layers else None


def selection(name: str, units: Units, cut: Cut) -> tuple[Tensor | None, Tensor | None]:
    """Rows and columns that stay of a source tensor, None for all of them."""
    if name in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
        return (None if cut.vocabulary is None else torch.tensor(cut.vocabulary, dtype=torch.long)), None
    match = LAYER.match(name)
    part = PART.match(match[2]) if match else None
    if match is None or part is None:
        return None, None
    at = cut.layers.index(int(match[1]))
    kept, each = (cut.groups[at], units.width) if part[1].startswith("self_attn") else (cut.channels[at], 1)
    if part[1] in ("self_attn.q_proj", "self_attn.o_proj"):
        each *= units.queries
    if len(kept) == (units.groups if part[1].startswith("self_attn") else units.channels):
        return None, None
    index = (torch.tensor(kept, dtype=torch.long)[:, None] * each + torch.arange(each)).reshape(-1)
    rows, columns = _sizes(part[1], units)
    return (index if rows is not None else None), (index if columns is not None and part[2] == "weight" else None)


def layout(entries: Mapping[str, Entry], units: Units, cut: Cut) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of the result by its new name: dtype and shape."""
    found = {}
    for name, entry in entries.items():
        new = renamed(name, cut)
        if new is not None:
            sides = selection(name, units, cut)
            found[new] = (
                entry.dtype,
                tuple(size if index is None else len(index) for size, index in zip(entry.shape, (*sides, None, None)[: len(entry.shape)], strict=True)),
            )
    return found


def parameters(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Numbers of all tensors; a tied output matrix is none of them."""
    return sum(math.prod(shape) for _, shape in shapes.values())


def cut_config(config: Mapping[str, Any], units: Units, cut: Cut) -> dict[str, Any]:
    """config.json of the result. Raises InputError for unequal counts in different layers, which no configuration can say, and for an empty model."""
    counts = {(len(groups), len(channels)) for groups, channels in zip(cut.groups, cut.channels, strict=True)}
    if len(counts) != 1 or min(next(iter(counts))) == 0:
        why = "layers would keep different numbers of heads or channels" if len(counts) > 1 else "nothing would be left"
        raise InputError(
            Problem("prune", f"{why}, and transformers loads no such shapes without code of its own", "remove equally many in every layer, and not all")
        )
    ((groups, channels),) = counts
    found = dict(config) | {
        "num_hidden_layers": len(cut.layers),
        "num_attention_heads": groups * units.queries,
        "num_key_value_heads": groups,
        "head_dim": units.width,
        "intermediate_size": channels,
        "vocab_size": units.vocabulary if cut.vocabulary is None else len(cut.vocabulary),
    }
    if len(cut.layers) < units.layers:
        listed = [key for key in BY_LAYER if isinstance(config.get(key), list)]
        guessed = [key for key in GUESSED_BY_LAYER if config.get(key)] if not listed else []
        unknown = [key for key, value in config.items() if isinstance(value, list) and len(value) == units.layers and key not in BY_LAYER]
        if guessed or unknown:
            odd = (guessed or unknown)[0]
            raise InputError(
                Problem(f"config.json: {odd}", "says something of layers by their number, which dropping layers would shift", "prune heads or channels")
            )
        found |= {key: [config[key][layer] for layer in cut.layers] for key in listed}
    return found
