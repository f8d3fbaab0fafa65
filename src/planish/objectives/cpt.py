"""Continued pretraining: every token of raw documents is trained, in blocks in which no document sees another.

L = - sum_t w_t log p(x_t | x_<t) / sum_t w_t, w = 1 on every token that another one of its document precedes        (MISSION C1)

A document ends with the tokenizer's end token. One that is longer than a block goes on in the next: the last token read there is the first one read here, so that
every token is predicted once, from what of its document stands in the block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from planish.data.bins import best_fit_decreasing
from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.model.template import Refused
from planish.rows import RejectCode, TextRow

ROW = TextRow
ENTRY = {"warmup": 0.05, "adapter": {"lora": {"r": 64}}}
"""What an entry of the train list has where the recipe does not say."""
LEARNING_RATE = {"full": 5e-5, "lora": 1e-4, "dora": 1e-4}
FEW_TOKENS = 1_000_000
"""Fewer teach a model little that it does not know, and cost it what it does."""
REPLAY = (0.1, 0.3)
"""The advised shares of general rows."""


def encode(row: TextRow, chat: Chat, *, block: int = 1024) -> Example:
    """One document in pieces of at most `block` read tokens. Its share of the step is its number of trained tokens. Raises planish.model.chat.Refused for an empty one."""
    _require(block, None)
    ids = [*_begin(chat), *chat.encode(row.text), _end(chat)]
    if not row.text.strip() or len(ids) < 2:
        raise Refused(RejectCode.NO_SCORED_TOKENS, "an empty document predicts nothing")
    pieces = tuple(_piece(ids[start : start + block + 1]) for start in range(0, len(ids) - 1, block))
    return Example(pieces, float(len(ids) - 1))


def refusals(base: Path, *, block: int = 1024) -> list[Problem]:
    """A block that is none, or longer than the model of the folder `base` reads: known before anything runs."""
    return _wrong(block, json.loads((base / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings"))


def blocks(named: Seq[tuple[str, Example]], context: int | None, *, block: int = 1024) -> list[tuple[str, Example]]:
    """The pieces of all examples put together in blocks of at most `block` read tokens, with the names of what is in each: a block is what a batch counts.

    Raises InputError where a block is longer than the `context` of the model.
    """
    _require(block, context)
    pieces = [(name, piece) for name, example in named for piece in example.sequences]
    bins = best_fit_decreasing([len(piece.ids) - 1 for _, piece in pieces], block)
    return [(_named([pieces[at][0] for at in members]), _example([pieces[at][1] for at in members])) for members in bins]


def advise(examples: Seq[Example], replay: dict[str, Any] | None) -> list[str]:
    """What is allowed and seldom right: too little text, and no general rows among it. `replay` is what the run reports of it."""
    tokens = sum(len(piece.scored) for example in examples for piece in example.sequences) * (1 - (replay or {"token_share": 0.0})["token_share"])
    found = []
    if tokens < FEW_TOKENS:
        found.append(f"{tokens:,.0f} tokens of documents: under {FEW_TOKENS:,} continued pretraining seldom helps; retrieval (baseline: rag) may do more")
    if replay is None or not REPLAY[0] <= replay["loss_share"] <= REPLAY[1]:
        told = "no general rows are replayed" if replay is None else f"{replay['loss_share']:.0%} of the loss is replayed"
        found.append(f"{told}: 10 to 30 % hold what the model knows; add replay: {{share: 0.2}}")
    return found


def loss(policy: Scored) -> Loss:
    """The sum over trained tokens; the loop divides by their number over the whole step."""
    return Loss(-(policy.log_prob * policy.weight).sum(), {})


def _require(block: int, context: int | None) -> None:
    if wrong := _wrong(block, context):
        raise InputError(*wrong)


def _wrong(block: int, context: int | None) -> list[Problem]:
    where = "train.objective.cpt.block"
    if block < 2:
        return [Problem(where, f"is {block}", "give the tokens of a block, such as 1024")]
    if context is not None and block > context:
        return [Problem(where, f"is {block}, and the model reads {context} tokens", f"set it to {context} or less")]
    return []


def _begin(chat: Chat) -> list[int]:
    """The begin token where the tokenizer itself puts one before a text; it is read and never trained."""
    return [chat.bos] if chat.bos is not None and chat.tokenizer("a")["input_ids"][:1] == [chat.bos] else []


def _end(chat: Chat) -> int:
    """The tokenizer's own end token; that of a turn where it names none."""
    own = chat.tokenizer.eos_token_id
    return chat.end if own is None else int(own)


def _piece(ids: list[int]) -> Sequence:
    return Sequence(tuple(ids), (0.0, *[1.0] * (len(ids) - 1)))


def _example(pieces: list[Sequence]) -> Example:
    return Example(tuple(pieces), sum(sum(piece.weights) for piece in pieces))


def _named(names: list[str]) -> str:
    """A block by the documents in it, the first three."""
    unique = list(dict.fromkeys(names))
    return " + ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
