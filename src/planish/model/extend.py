"""A model with a longer vocabulary as a plain folder: tokenizer, grown rows, and where it is asked for those rows trained first, all others frozen (MISSION C2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import torch

from planish.data.tree import Sequence, build
from planish.model import new_tokens
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.new_tokens import ABOUT, Forecast
from planish.model.policy import score

LEARNING_RATE = 1e-3
"""Of the new rows alone: they begin at a mean and nothing else moves with them."""
BATCH = 4
LONGEST = 256
"""Tokens of a piece of text that the new rows are trained on."""


def extend(base: Path, texts: Seq[str], forecast: Forecast, out: Path, *, steps: int = 0, on_step: Callable[[float], None] = lambda _: None) -> dict[str, Any]:
    """Write the extended model into the folder `out` and give what `new_tokens.json` there says. Raises InputError for an id clash, and where old text would get other ids."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    before, new = Chat.load(base), forecast.new
    before.save(out)
    place = out / "tokenizer.json"
    tokenizer, first = new_tokens.extended(json.loads(place.read_text(encoding="utf-8")), new)
    place.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    after = Chat.load(out)
    new_tokens.check(before, after, new, first, texts)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=False, use_safetensors=True)
    grown = new_tokens.grow(model, first, new)
    model.save_pretrained(out, safe_serialization=True)
    losses: list[float] = []
    if steps:
        rows, losses = train_rows(out, after, texts, first, steps, on_step)
        for table, trained in zip(_tables(model), rows, strict=True):
            with torch.no_grad():
                table[first : first + len(new)] = trained[: len(new)].to(table.dtype)  # behind them a padded vocabulary has rows of no token
        model.save_pretrained(out, safe_serialization=True)
    about = {
        "added": len(new),
        "first": first,
        "grown": grown,
        "parameters": new_tokens.parameters(grown, model.config.get_text_config().hidden_size, tied=len(_tables(model)) == 1),
        "words": forecast.words,
        "tokens": forecast.tokens,
        "fertility": list(forecast.fertility),
        "saving": forecast.saving,
        "advice": forecast.advice,
        "steps": steps,
        "untrained_before": new_tokens.untrained(base),  # rows of an earlier extension: steps train those of this one alone
        "losses": losses,
        "new": [{"token": one.token, "count": one.count, "pieces": list(one.pieces)} for one in new],
    }
    (out / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return about


def train_rows(
    folder: Path, chat: Chat, texts: Seq[str], first: int, steps: int, on_step: Callable[[float], None] = lambda _: None
) -> tuple[list[torch.Tensor], list[float]]:
    """The new rows, (N, H) of the embeddings and of a head that is not tied, after `steps` steps of AdamW on text that holds them, and the loss of each step.

    Everything else is frozen: the gradient of an old row is 0, and no decay moves it."""
    torch.manual_seed(42)
    model: Any = load(folder, "fp32", trained=True)
    model.requires_grad_(False)
    tables = _tables(model)

    def new_only(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:first] = 0
        return gradient

    for table in tables:
        table.requires_grad_(True).register_hook(new_only)
    pieces = _pieces(chat, texts, first)
    optimizer = torch.optim.AdamW(tables, LEARNING_RATE, weight_decay=0.0)
    losses = []
    for step in range(steps):
        batch = [pieces[(step * BATCH + place) % len(pieces)] for place in range(BATCH)]
        scored = score(model, build(batch), "fp32")
        loss = -(scored.log_prob * scored.weight).sum() / scored.weight.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        on_step(losses[-1])
    return [table.detach()[first:].clone() for table in tables], losses


def _tables(model: Any) -> list[Any]:
    """The matrices with a row a token: the embeddings, and a head that is not tied to them."""
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [embeddings] if head is embeddings else [embeddings, head]


def _pieces(chat: Chat, texts: Seq[str], first: int) -> list[Sequence]:
    """Runs of the texts with a new token in them, in a seeded order."""
    found = []
    for text in texts:
        ids = chat.encode(text)
        for start in range(0, len(ids) - 1, LONGEST):
            run = ids[start : start + LONGEST + 1]
            if len(run) > 1 and max(run) >= first:
                found.append(Sequence(tuple(run), (0.0, *[1.0] * (len(run) - 1))))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(42)).tolist()
    return [found[place] for place in order]
