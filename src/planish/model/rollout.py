"""Rows that the trained model writes itself, in the place of a step's own: sampled before the step, the same again when the step is repeated (MISSION S4)."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from planish.data.tree import Sequence
from planish.model.answer_text import AnswerText
from planish.model.backbone import base_of
from planish.model.batched import Row, decode
from planish.model.chat import Chat
from planish.model.engine import Decoding, Generation
from planish.model.example import Example
from planish.model.layout import layout_of, use_plain
from planish.model.sampling import Sampler

UNBOUNDED = 2**31
"""The context of a family that names none."""


class Rolled(NamedTuple):
    """The rows of a step, as many as it had, and figures of the step that are reported as they are."""

    examples: list[Example]
    figures: dict[str, float]


Rollout = Callable[[list[Example], int], Rolled]
"""From the rows of a step and its number to what it is trained on."""


@dataclass(frozen=True)
class Student:
    """The model that is trained, as it is now, to be asked for answers. `chat` is its tokenizer with its template."""

    model: Any
    chat: Chat
    precision: str
    device: str = "cpu"

    @torch.inference_mode()
    def sample(self, prompts: Seq[Seq[int]], decoding: Decoding, seeds: Seq[int]) -> list[Generation]:
        """One answer per prompt, each with draws of its own seed, without dropout. One that nears the end of the context is cut there; every prompt must leave room for a token.

        No other random state is touched, and the model is left as it was found.
        """
        rows = [
            Row(tuple(prompt), Sampler(own, prompt), AnswerText(self.chat.decode, self.chat.end, own))
            for prompt, seed in zip(prompts, seeds, strict=True)
            for own in [replace(decoding, seed=int(seed), max_new_tokens=min(decoding.max_new_tokens, self.room(prompt)))]
        ]
        was = self.model.training
        self.model.eval()
        use_plain(self.model)
        try:
            for part in [rows] if rows and layout_of(self.model).kind == "tree" else [[row] for row in rows]:
                decode(self.model, part, self.precision)
        finally:
            self.model.train(was)
        return [row.answer.whole() for row in rows]

    def room(self, prompt: Seq[int]) -> int:
        """Tokens that an answer may have within the model's context, of which learned tokens take their part."""
        base: Any = base_of(self.model)
        context = getattr(base.config.get_text_config(), "max_position_embeddings", None) or UNBOUNDED
        return int(context) - len(prompt) - getattr(getattr(base, "virtual", None), "count", 0)


def asked(sequence: Sequence) -> tuple[int, ...]:
    """The prompt of a sequence's last answer: everything before the last run of scored tokens, which ends the sequence."""
    first = len(sequence.ids)
    while first > 1 and sequence.weights[first - 1]:
        first -= 1
    return sequence.ids[:first]


def answered(prompt: Seq[int], said: Generation, end: int, weight: float, given: tuple[float, ...]) -> Example:
    """A prompt with a sampled answer; its tokens are scored, and the end of the turn with them where the answer ended by itself."""
    ids = (*said.token_ids, *([end] if said.finish == "stop" else []))
    return Example((Sequence((*prompt, *ids), (*[0.0] * len(prompt), *[weight] * len(ids)), given),), weight * len(ids))
