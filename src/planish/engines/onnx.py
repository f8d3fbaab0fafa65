"""onnxruntime on the CPU: an exported ONNX folder, one prompt at a time, with the graph's own key-value cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.model.answer_text import AnswerText
from planish.model.chat import Chat
from planish.model.choice import branches, probabilities
from planish.model.constraint_mask import Masks
from planish.model.engine import Decoding, Delta, Generation
from planish.model.onnx_session import Cache, OnnxSession
from planish.model.sampling import Sampler


class OnnxEngine:
    """A session in this process, which had `before` bytes resident without it. Prompts are token ids, computed one by one: an answer is the same to the last bit whatever else is
    in the call."""

    name = "onnx"

    def __init__(self, session: OnnxSession, chat: Chat, before: int | None) -> None:
        self._session: OnnxSession | None = session
        self.chat, self.context = chat, session.decoder.context
        self._before, self._most = before, before

    def generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding, advance: Callable[[int], object] = lambda _: None) -> list[Generation]:
        """One answer per prompt; `advance` is told of each. Raises InputError naming every prompt that is empty or does not fit."""
        self._check(prompts, decoding.max_new_tokens)
        found = []
        for prompt in prompts:
            answer = self._text(decoding)
            for _ in self._pieces(prompt, decoding, answer):
                pass
            found.append(answer.whole())
            advance(1)
        return found

    def stream(self, prompt: Sequence[int], decoding: Decoding) -> Iterator[Delta]:
        """Token by token. Text is held back while it could be the beginning of a stop text or half a character."""
        self._check([prompt], decoding.max_new_tokens)
        yield from self._pieces(prompt, decoding, self._text(decoding))

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> list[list[float]]:
        """(N, options) probabilities; a prompt is computed once, and each way from there goes on from its cache."""
        try:
            nodes = branches(options)
        except ValueError as wrong:
            raise InputError(Problem("options", str(wrong), "give options of which none begins another")) from None
        self._check(prompts, max((len(path) for path in nodes), default=0))
        return [probabilities(options, self._weighed(prompt, nodes)) for prompt in prompts]

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """(T, V) fp32: what each token of a text makes the next one."""
        self._check([ids], 0)
        return torch.from_numpy(self._run(ids, self._open.empty, keep=0)[0])

    def memory(self) -> int | None:
        """Bytes by which this process has grown since the file was opened, at the most that was seen between two passes; None where the system does not say."""
        return None if self._most is None or self._before is None else self._most - self._before

    def close(self) -> None:
        """Let go of the weights; safe to call twice."""
        self._session = None

    @property
    def _open(self) -> OnnxSession:
        if self._session is None:
            raise InputError(Problem(self.name, "is closed", "start it again"))
        return self._session

    def _run(self, ids: Sequence[int], cache: Cache, keep: int = 1) -> tuple[NDArray[np.float32], Cache]:
        found = self._open.run(ids, cache, keep)
        now = resident()
        self._most = None if self._most is None or now is None else max(self._most, now)
        return found

    def _pieces(self, prompt: Sequence[int], decoding: Decoding, answer: AnswerText) -> Iterator[Delta]:
        mask = None if decoding.constraint is None else self._masks.of(decoding.constraint)
        sampler = Sampler(decoding, prompt, mask)
        ids, cache = list(prompt), self._open.empty
        while answer.finish is None:
            logits, cache = self._run(ids, cache)
            token = sampler.pick(torch.from_numpy(logits[-1]))
            yield answer.take(token)
            ids = [token]

    def _text(self, decoding: Decoding) -> AnswerText:
        return AnswerText(self.chat.decode, self.chat.end, decoding)

    @cached_property
    def _masks(self) -> Masks:
        return Masks(self.chat.tokenizer, self.chat.end, self._open.decoder.vocabulary)

    def _weighed(self, prompt: Sequence[int], nodes: dict[tuple[int, ...], tuple[int, ...]]) -> dict[tuple[int, ...], dict[int, float]]:
        """The logits of the allowed tokens at each node."""
        known: dict[tuple[int, ...], tuple[NDArray[np.float32], Cache]] = {(): self._run(prompt, self._open.empty)}
        for path in sorted(nodes, key=len):
            if path not in known:
                start = max((each for each in known if path[: len(each)] == each), key=len)
                known[path] = self._run(path[len(start) :], known[start][1])
        return {path: {token: float(known[path][0][-1, token]) for token in allowed} for path, allowed in nodes.items()}

    def _check(self, prompts: Sequence[Sequence[int]], more: int) -> None:
        problems = []
        for index, prompt in enumerate(prompts):
            if not prompt:
                problems.append(Problem(f"prompt {index}", "has no tokens", "give at least one"))
            elif len(prompt) + more > self.context:
                why = f"{len(prompt)} tokens and {more} new ones do not fit the context of {self.context}"
                problems.append(Problem(f"prompt {index}", why, "shorten it, or lower max_new_tokens"))
        if problems:
            raise InputError(*problems)


def start(model: Path, *, threads: int = 0) -> OnnxEngine:
    """Open an exported folder; `threads` 0 takes every core. Raises InputError for a folder whose graph is not of the model its config.json describes."""
    before = resident()  # bytes, before the weights
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return OnnxEngine(OnnxSession(model, threads or cores), Chat.load(model), before)


def resident() -> int | None:
    """Bytes of this process in memory; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
