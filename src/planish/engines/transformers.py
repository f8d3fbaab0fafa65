"""transformers: the reference engine; the same weights and code that trained, with option scoring on the prefix tree."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, Literal

import torch

from planish.data.tree import Sequence, pack
from planish.model import precision as number_format
from planish.model.chat import Chat
from planish.model.choice import branches, probabilities
from planish.model.engine import Decoding, Delta, Generation
from planish.model.layout import use_plain, use_tree
from planish.model.lm_head import head_of
from planish.model.load import load
from planish.model.policy import autocast, hidden_states

TREE_TOKENS = 4096


class TransformersEngine:
    """A causal model in this process. Decoding is a plain loop with a key-value cache, one prompt at a time; `choose` is batched on the tree."""

    name = "transformers"

    def __init__(self, model: Any, chat: Chat, precision: Literal["fp32", "bf16"]) -> None:
        self.model, self.chat, self.precision = model, chat, precision

    def generate(self, prompts: Seq[Seq[int]], decoding: Decoding) -> list[Generation]:
        """One answer per prompt."""
        answers = []
        for prompt in prompts:
            pieces = list(self.stream(prompt, decoding))
            ids = tuple(id for piece in pieces for id in piece.token_ids)
            answers.append(Generation("".join(piece.text for piece in pieces), ids, pieces[-1].finish or "length"))
        return answers

    @torch.inference_mode()
    def stream(self, prompt: Seq[int], decoding: Decoding) -> Iterator[Delta]:
        """Token by token. Text is held back while it could be the beginning of a stop string or half a character."""
        use_plain(self.model)
        random = torch.Generator().manual_seed(decoding.seed)
        step, past, ids, sent = torch.tensor([list(prompt)]), None, list[int](), ""
        for count in range(decoding.max_new_tokens):
            with autocast(self.precision):
                output = self.model(input_ids=step, past_key_values=past, use_cache=True, logits_to_keep=1)
            past = output.past_key_values
            token = _sample(output.logits[0, -1].float(), decoding, random)
            if token == self.chat.end:
                yield Delta(self.chat.decode(ids)[len(sent) :], (), "stop")
                return
            ids.append(token)
            text = self.chat.decode(ids)
            cut = min((text.find(stop) for stop in decoding.stop if stop in text), default=-1)
            if cut >= 0:
                yield Delta(text[len(sent) : cut], (token,), "stop")
                return
            last = count + 1 == decoding.max_new_tokens
            ready = text if last else text[: len(text) - _held_back(text, decoding.stop)]
            yield Delta(ready[len(sent) :], (token,), "length" if last else None)
            sent = ready if len(ready) > len(sent) else sent
            step = torch.tensor([[token]])

    @torch.inference_mode()
    def choose(self, prompts: Seq[Seq[int]], options: Seq[Seq[int]]) -> list[list[float]]:
        """(N, options) probabilities; the prompts' shared prefix and the options' are computed once, and only allowed tokens reach the LM head."""
        use_tree(self.model)
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


def start(model: Path, *, precision: Literal["auto", "fp32", "bf16"] = "auto") -> TransformersEngine:
    """Load a model folder."""
    chosen = number_format.choose(precision)
    return TransformersEngine(load(model, chosen), Chat.load(model), chosen)


def _asked(prompt: Seq[int], path: tuple[int, ...], token: int) -> Sequence:
    """The prompt with the way to one node; its last token stands for all allowed ones and is only a target."""
    ids = (*prompt, *path, token)
    return Sequence(ids, (*[0.0] * (len(ids) - 1), 1.0))


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end may still turn into a stop string or a whole character."""
    held = 1 if text.endswith("�") else 0
    for stop in stops:
        held = max([held, *(size for size in range(1, len(stop)) if text.endswith(stop[:size]))])
    return held


def _sample(logits: torch.Tensor, decoding: Decoding, random: torch.Generator) -> int:
    """Temperature, then top-k, then top-p (MISSION E2). Temperature 0 is greedy."""
    if decoding.temperature == 0:
        return int(logits.argmax())
    logits = logits / decoding.temperature
    if decoding.top_k:
        logits[logits < logits.topk(min(decoding.top_k, len(logits))).values[-1]] = -torch.inf
    if decoding.top_p < 1:
        ordered, index = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        logits[index[before >= decoding.top_p]] = -torch.inf
    return int(torch.multinomial(logits.softmax(-1), 1, generator=random))
