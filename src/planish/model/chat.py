"""Rendering a conversation to token ids, and which of them are trained: the one path for training, evaluation and serving (MISSION K1, K2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.rows import Message, RejectCode


class Refused(Exception):
    """A conversation that cannot be trained on, with its reason code."""

    def __init__(self, code: RejectCode, why: str) -> None:
        self.code, self.why = code, why
        super().__init__(f"{code}: {why}")


@dataclass(frozen=True)
class Chat:
    """A tokenizer with its chat template. The template runs in transformers' immutable sandbox."""

    tokenizer: Any

    @staticmethod
    def load(folder: Path) -> Chat:
        """Read tokenizer and template. Raises InputError when there is no template."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not tokenizer.chat_template:
            why = "its tokenizer has no chat template, so prompts cannot be rendered"
            raise InputError(Problem(f"model: {folder}", why, "put a chat_template.jinja into the folder"))
        return Chat(tokenizer)

    @cached_property
    def template_hash(self) -> str:
        """sha256 of the template's text."""
        return hashlib.sha256(self.tokenizer.chat_template.encode()).hexdigest()

    @property
    def end(self) -> int:
        """The id that ends a turn, and an answer."""
        return int(self.tokenizer.eos_token_id)

    def text(self, messages: Seq[Message], *, prompt: bool) -> str:
        """The rendered text; with `prompt`, the header that asks for an answer is at its end."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that already holds its special tokens."""
        return [int(id) for id in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def prompt(self, messages: Seq[Message]) -> list[int]:
        """Token ids that ask for the next answer."""
        return self.encode(self.text(messages, prompt=True))

    def decode(self, ids: Seq[int]) -> str:
        """Text of generated ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def trained(self, messages: Seq[Message]) -> Sequence:
        """The whole conversation; weight 1 on the text of every assistant turn and on the token that ends it, 0 elsewhere.

        Spans come from the template: what it adds between the prompt up to a turn and the conversation with that turn. Raises Refused not_a_prefix when the
        prompt's ids are not where the conversation's begin (training and serving would see different tokens), eos_missing, or no_scored_tokens.
        """
        full = self.text(messages, prompt=False)
        encoded = self.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        weights = [0.0] * len(ids)
        for turn, message in enumerate(messages):
            if message.role != "assistant" or message.weight == 0:
                continue
            self._mark(messages, turn, full, ids, offsets, weights)
        scored = [index for index, weight in enumerate(weights) if weight]
        if not scored:
            raise Refused(RejectCode.NO_SCORED_TOKENS, "no token of this row would be trained")
        keep = scored[-1] + 1  # nothing after the last scored token is ever needed
        return Sequence(tuple(ids[:keep]), tuple(weights[:keep]))

    def _mark(self, messages: Seq[Message], turn: int, full: str, ids: list[int], offsets: list[tuple[int, int]], weights: list[float]) -> None:
        """Set the weights of one assistant turn."""
        prompt, through = self.text(messages[:turn], prompt=True), self.text(messages[: turn + 1], prompt=False)
        prompt_ids = self.encode(prompt)
        if not full.startswith(prompt) or not full.startswith(through) or ids[: len(prompt_ids)] != prompt_ids:
            raise Refused(RejectCode.NOT_A_PREFIX, f"the template renders the prompt of turn {turn + 1} differently from the conversation that holds it")
        span = [index for index in range(len(prompt_ids), len(ids)) if offsets[index][1] <= len(through)]
        ends = [index for index in span if ids[index] == self.end]
        if not ends:
            raise Refused(RejectCode.EOS_MISSING, f"the template writes no end token after turn {turn + 1}, so the model would never learn to stop")
        weight = 1.0 if messages[turn].weight is None else float(messages[turn].weight or 0)
        for index in span[: span.index(ends[-1]) + 1]:
            weights[index] = weight
