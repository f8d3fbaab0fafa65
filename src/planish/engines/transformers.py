"""transformers: the reference engine; the same weights and code that trained, with option scoring on the prefix tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from planish.data.tree import Sequence, pack
from planish.errors import InputError, Problem
from planish.model import precision as number_format
from planish.model.answer_text import AnswerText
from planish.model.backbone import base_of
from planish.model.batched import Row, decode, step
from planish.model.chat import Chat
from planish.model.choice import branches, probabilities
from planish.model.constraint_mask import Masks
from planish.model.engine import Decoding, Delta, Generation
from planish.model.layout import layout_of, use_plain
from planish.model.lm_head import head_of
from planish.model.load import load
from planish.model.policy import autocast, hidden_states
from planish.model.sampling import Sampler

TREE_TOKENS = 4096


class TransformersEngine:
    """A causal model in this process. Answers are decoded with a key-value cache, in batches where that changes no token; `choose` is batched on the tree.

    `exact` keeps each answer free of its neighbours: rows of a batch round differently, which in bf16 turns into other words, so there prompts are answered one by one.
    In fp32 the batch is 1e-5 from the single row, far below the distance of two tokens, and is used always.
    """

    name = "transformers"

    def __init__(self, model: Any, chat: Chat, precision: Literal["fp32", "bf16"], *, exact: bool = True) -> None:
        self.model, self.chat, self.precision, self.exact = model, chat, precision, exact

    @torch.inference_mode()
    def generate(self, prompts: Seq[Seq[int]], decoding: Decoding, advance: Callable[[int], object] = lambda _: None) -> list[Generation]:
        """One answer per prompt; `advance` is told how many more are done. Raises InputError naming every prompt without tokens."""
        rows = [self._row(prompt, decoding) for prompt in checked(prompts)]
        use_plain(self.model)
        together = layout_of(self.model).kind == "tree" and (self.precision == "fp32" or not self.exact)
        for part in [rows] if together and rows else [[row] for row in rows]:
            decode(self.model, part, self.precision, advance)
        return [row.answer.whole() for row in rows]

    @torch.inference_mode()
    def stream(self, prompt: Seq[int], decoding: Decoding) -> Iterator[Delta]:
        """Token by token. Text is held back while it could be the beginning of a stop text or half a character."""
        row = self._row(checked([prompt])[0], decoding)
        use_plain(self.model)
        ids, past = torch.tensor([row.prompt]), None
        while row.answer.finish is None:
            logits, past = step(self.model, self.precision, ids, past)
            token = row.sampler.pick(logits[0])
            yield row.answer.take(token)
            ids = torch.tensor([[token]])

    def _row(self, prompt: Seq[int], decoding: Decoding) -> Row:
        mask = None if decoding.constraint is None else self._masks.of(decoding.constraint)
        return Row(tuple(prompt), Sampler(decoding, prompt, mask), AnswerText(self.chat.decode, self.chat.end, decoding))

    @cached_property
    def _masks(self) -> Masks:
        return Masks(self.chat.tokenizer, self.chat.end, base_of(self.model).config.get_text_config().vocab_size)

    @torch.inference_mode()
    def choose(self, prompts: Seq[Seq[int]], options: Seq[Seq[int]]) -> list[list[float]]:
        """(N, options) probabilities; the prompts' shared prefix and the options' are computed once, and only allowed tokens reach the LM head."""
        nodes = branches(options)
        groups = [[_asked(prompt, path, allowed[0]) for path, allowed in nodes.items()] for prompt in prompts]
        head = head_of(self.model)
        result: list[list[float]] = [[] for _ in prompts]
        for members, tree in pack(groups, TREE_TOKENS):
            with autocast(self.precision):
                hidden = hidden_states(self.model, tree)[torch.from_numpy(tree.scored_at)].float()
            for place, index in enumerate(members):
                found = {}
                for at, (path, allowed) in enumerate(nodes.items()):
                    logits = head.logits(hidden[place * len(nodes) + at][None], torch.tensor(allowed))
                    found[path] = dict(zip(allowed, logits[0].tolist(), strict=True))
                result[index] = probabilities(options, found)
        return result

    def close(self) -> None:
        """Let go of the weights."""
        self.model = None


def start(model: Path, *, precision: Literal["auto", "fp32", "bf16"] = "auto", exact: bool = True) -> TransformersEngine:
    """Load a model folder. `exact` answers one prompt at a time in bf16, where a batch would round into other words; without it bf16 is batched too.

    fp32 is batched always: for many long answers it is the faster of the two.
    """
    chosen = number_format.choose(precision)
    return TransformersEngine(load(model, chosen), Chat.load(model), chosen, exact=exact)


def checked(prompts: Seq[Seq[int]]) -> Seq[Seq[int]]:
    """The prompts, none of them empty."""
    problems = [Problem(f"prompt {index}", "has no tokens", "give at least one") for index, prompt in enumerate(prompts) if not prompt]
    if problems:
        raise InputError(*problems)
    return prompts


def _asked(prompt: Seq[int], path: tuple[int, ...], token: int) -> Sequence:
    """The prompt with the way to one node; its last token stands for all allowed ones and is only a target."""
    ids = (*prompt, *path, token)
    return Sequence(ids, (*[0.0] * (len(ids) - 1), 1.0))
