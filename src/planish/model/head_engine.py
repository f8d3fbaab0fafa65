"""A trained head as an engine: it chooses among its own labels in one pass a prompt, and writes no text (MISSION A11)."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Any, Literal

import torch
from torch import nn

from planish.data.tree import pack
from planish.errors import InputError, Problem
from planish.model import asker
from planish.model.backbone import base_of
from planish.model.chat import Chat
from planish.model.class_head import class_logits, number, read_whole
from planish.model.described import description
from planish.model.engine import Decoding, Delta, Generation
from planish.model.layout import shares_prefixes

TREE_TOKENS = 4096


def has_head(model: nn.Module) -> bool:
    """Whether a model answers by a head of its own, and not by the text that it writes."""
    return getattr(base_of(model), "class_head", None) is not None


def rates(model: nn.Module) -> bool:
    """Whether a model is a reward model: its head says of an answer how good it is."""
    return has_head(model) and (description(model) or {}).get("kind") == "reward"


@torch.inference_mode()
def classify(model: nn.Module, prompts: Seq[Seq[int]], precision: str, device: torch.device | str = "cpu") -> torch.Tensor:
    """The head's word on every prompt, (N, classes) or (N, 1), in fp32. The prompts' shared prefixes are computed once, and as many at a time as fit a micro-batch."""
    found: dict[int, torch.Tensor] = {}
    for members, _ in pack([[read_whole(prompt)] for prompt in prompts], TREE_TOKENS, shared=shares_prefixes(model)):
        part = class_logits(model, [prompts[index] for index in members], precision, device)
        found |= dict(zip(members, part, strict=True))
    return torch.stack([found[index] for index in range(len(prompts))])


class HeadEngine:
    """A model with a head of classes, or of one value, in this process. Its labels are the head's, or for a value any that are numbers."""

    name = "head"

    def __init__(self, model: Any, chat: Chat, precision: Literal["fp32", "bf16"], device: torch.device | str = "cpu") -> None:
        self.model, self.chat, self.precision, self.device = model, chat, precision, device
        config = description(model) or {}
        self.kind = str(config.get("kind"))
        self.labels: tuple[str, ...] = tuple(config.get("labels") or ())
        self._own = asker.options(chat, self.labels)

    def choose(self, prompts: Seq[Seq[int]], options: Seq[Seq[int]]) -> list[list[float]]:
        """(N, options) probabilities that sum to 1 over the options: the head's softmax over its classes, or of a value v a normal density of deviation 1 around it.

        An option is a label's tokens and the end of the turn, as `planish.model.asker.options` makes them. Raises InputError for one that the head has not, and for a reward head.
        """
        texts = [self.chat.decode([token for token in option if token not in self.chat.ends]) for option in options]
        classes = {option: place for place, option in enumerate(self._own)}
        if self.kind == "regression":
            values = [number(text) for text in texts]
            problems = [
                Problem("label", f'"{text}" is no number, and the head gives one', "use a classification head") for text in texts if number(text) is None
            ]
        elif self.kind == "classification":
            fix = f"its labels are {', '.join(self.labels)}"
            absent = [text for text, option in zip(texts, options, strict=True) if tuple(option) not in classes]
            problems = [Problem("label", f'the head has no class "{text}"', fix) for text in absent]
        else:
            problems = [
                Problem("adapter.head", f"a {self.kind} head rates answers and chooses no label", "score it on pairs: evaluate.scorers: [pair_accuracy]")
            ]
        if problems:
            raise InputError(*problems)
        said = classify(self.model, prompts, self.precision, self.device)
        if self.kind == "regression":
            return _table(-0.5 * (said - torch.tensor(values, device=said.device)).square())
        return _table(said[:, [classes[tuple(option)] for option in options]])

    def generate(self, prompts: Seq[Seq[int]], decoding: Decoding) -> list[Generation]:
        """Raises InputError: a head writes no text."""
        raise InputError(_writes_nothing())

    def stream(self, prompt: Seq[int], decoding: Decoding) -> Iterator[Delta]:
        """Raises InputError: a head writes no text."""
        raise InputError(_writes_nothing())

    def close(self) -> None:
        """Let go of the weights."""
        self.model = None


def _table(logits: torch.Tensor) -> list[list[float]]:
    found: list[list[float]] = logits.softmax(-1).tolist()
    return found


def _writes_nothing() -> Problem:
    return Problem("adapter.head", "a head gives a label or a number and writes no text", "ask it to choose among labels, or train an adapter by sft")
