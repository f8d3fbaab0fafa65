"""Several answers decoded together: what all prompts begin with is computed once, each batch is padded to the left, and a row that has ended leaves it.

A row's logits are those it has alone up to rounding (1e-5 in fp32, MISSION K5). In bf16 that rounding is large enough to turn one word into another.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.answer_text import AnswerText
from planish.model.backbone import base_of
from planish.model.sampling import Sampler
from planish.model.tree_forward import autocast

ROWS = 32
"""Answers that are decoded together: on a CPU a step then takes its time from arithmetic, no longer from reading the weights."""
TOKENS = 32768
"""Keys and values of one batch, padding and answers included."""
PREFIX = 16
"""A shorter common beginning is not worth a pass of its own."""


@dataclass
class Row:
    """A prompt, how its tokens are picked, and its answer so far."""

    prompt: tuple[int, ...]
    sampler: Sampler
    answer: AnswerText


def decode(model: Any, rows: Sequence[Row], precision: str, done: Callable[[int], object] = lambda _: None) -> None:
    """Bring every row's answer to its end. The model has its own attention (`use_plain`). `done` is told how many answers have ended, batch by batch."""
    prefix = rows[0].prompt[: shared(model, [row.prompt for row in rows])]
    cache = step(model, precision, torch.tensor([prefix]), None)[1] if prefix else None
    for part in batches(rows, len(prefix)):
        _together(model, part, len(prefix), cache, precision)
        done(len(part))


def shared(model: Any, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with and are computed once. None for a single prompt, and none where layers look back by cache place (sliding windows),
    which the padding behind a shared beginning would shift."""
    config = base_of(model).config.get_text_config()
    windowed = getattr(config, "sliding_window", None) or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if len(prompts) < 2 or windowed:
        return 0
    ordered = sorted(tuple(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # what these two share, all share
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))
    length = min(length, min(map(len, prompts)) - 1)  # a row's last token gives its first logits
    return length if length >= PREFIX else 0


def batches(rows: Sequence[Row], prefix: int) -> Iterator[list[Row]]:
    """Rows of like length together, the longest first, within the budget of tokens."""
    waiting = sorted(rows, key=lambda row: -len(row.prompt))
    while waiting:
        decoding = waiting[0].sampler.decoding
        size = max(1, min(ROWS, TOKENS // (len(waiting[0].prompt) + decoding.max_new_tokens)))
        yield waiting[:size]
        waiting = waiting[size:]


def _together(model: Any, rows: list[Row], prefix: int, shared_cache: Any, precision: str) -> None:
    past = copy.deepcopy(shared_cache)
    if past is not None:
        past.batch_repeat_interleave(len(rows))
    own = [row.prompt[prefix:] for row in rows]
    width = max(map(len, own))
    ids = torch.tensor([[0] * (width - len(each)) + list(each) for each in own])
    seen = torch.tensor([[1] * prefix + [0] * (width - len(each)) + [1] * len(each) for each in own])
    places = (seen.cumsum(-1) - 1).clamp_min(0)[:, prefix:]
    while True:
        logits, past = step(model, precision, ids, past, seen, places)
        tokens = [row.sampler.pick(one) for row, one in zip(rows, logits, strict=True)]
        for row, token in zip(rows, tokens, strict=True):
            row.answer.take(token)
        going = [at for at, row in enumerate(rows) if row.answer.finish is None]
        if not going:
            return
        if len(going) < len(rows):
            rows = [rows[at] for at in going]
            kept = torch.tensor(going)
            past.batch_select_indices(kept.to(model.device))
            seen, places = seen[kept], places[kept]
        ids = torch.tensor([[tokens[at]] for at in going])
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], 1)
        places = places[:, -1:] + 1


def step(model: Any, precision: str, ids: Tensor, past: Any, seen: Tensor | None = None, places: Tensor | None = None) -> tuple[Tensor, Any]:
    """One pass with a cache: (B, V) fp32 logits on the CPU of each row's last token, and the cache. ids: (B, T); seen: (B, cached + T); places: (B, T).

    Raises InputError for a family that keeps a state of another kind.
    """
    device, base = model.device, base_of(model)
    given: dict[str, Any] = {"input_ids": ids.to(device), "past_key_values": past, "use_cache": True, "logits_to_keep": 1}
    if seen is not None:
        given["attention_mask"] = seen.to(device)
    known = inspect.signature(base.forward).parameters
    if "past_key_values" not in known:
        why = f"{base.config.model_type} keeps no key-value cache, so it cannot answer freely here"
        raise InputError(Problem("model", why, "let it choose among labels, or use another family"))
    if places is not None and "position_ids" in known:
        given["position_ids"] = places.to(device)  # a family without them reads its places from the mask
    with autocast(precision, device):
        output = model(**given)
    return output.logits[:, -1].float().cpu(), output.past_key_values
