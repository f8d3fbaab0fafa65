"""How long the gold set will take in a file's own runtime: a slice of the file really runs there, and its seconds a token are taken to the whole model (MISSION Z6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from planish.engines import llamacpp, onnx
from planish.model import step_time
from planish.model.engine import Decoding, Generation
from planish.model.onnx_session import GRAPH

Timed = Callable[[Callable[[], object]], float]
"""Does some work and gives its seconds."""
NEW = 24
"""Tokens of an answer that is timed."""
REPEATS = 5
"""Prompts of which each length of answer is timed, the slices in turn; the fastest counts."""


class Rates(NamedTuple):
    """Seconds for one token of a prompt, and for one of an answer."""

    prompt: float
    answer: float


def own_runtime(path: Path) -> bool:
    """Whether a file is scored by another runtime than transformers, which computes with the plain weights of any folder of codes."""
    return path.is_file() or (path / GRAPH).is_file()


def rates(slices: Sequence[Path], texts: Sequence[Sequence[int]], layers: int, weights: float) -> Rates:
    """Of the whole model, which has so many `layers`, from its slices of one layer, and of two where it has as many: what the second layer adds, each further one adds.

    A token of an answer reads all weights, so it takes no less than `weights` times the last slice's, which has that part of them: where a layer is little beside the output
    matrix, what it adds is lost in the noise. Raises MissingExtra without the runtime.
    """
    engines = list[Any]()
    try:
        for path in slices:
            engines.append(onnx.start(path) if (path / GRAPH).is_file() else llamacpp.start(path))
        # what computes in this process is timed by its work, what computes in a worker by the clock
        timed = step_time.taken if (slices[-1] / GRAPH).is_file() else _by_the_clock
        found = [[_rates(engine, timed, *prompts) for engine in engines] for prompts in _prompts(texts)]
    finally:
        for engine in engines:
            engine.close()
    best = [Rates(*(min(kind) for kind in zip(*(turn[number] for turn in found), strict=True))) for number in range(len(engines))]
    more = layers - len(slices)
    found_prompt, found_answer = (last + more * max(0.0, last - first) for first, last in zip(best[0], best[-1], strict=True))
    return Rates(found_prompt, max(found_answer, weights * best[-1].answer))


def _prompts(texts: Sequence[Sequence[int]]) -> list[tuple[list[int], list[int]]]:
    """Two for each repeat. Each begins otherwise than the one before: what a runtime keeps of that one must not help."""
    turns = [list(texts[number % len(texts)]) for number in range(2 * REPEATS)]
    begun = [[text[number % len(text)], *text] for number, text in enumerate(turns)]
    return list(zip(begun[::2], begun[1::2], strict=True))


def _rates(engine: Any, timed: Timed, read: Sequence[int], written: Sequence[int]) -> Rates:
    """From a prompt with one token of an answer, and from one with NEW of them."""
    seconds, _ = _spent(engine, timed, read, 1)
    one = seconds / len(read)
    seconds, made = _spent(engine, timed, written, NEW)
    # a model that ends at once says nothing of an answer: then a token counts as one of a prompt does
    return Rates(one, max(one, (seconds - one * len(written)) / (made - 1)) if made > 1 else one)


def _spent(engine: Any, timed: Timed, prompt: Sequence[int], new: int) -> tuple[float, int]:
    """Seconds and tokens of one answer."""
    said = list[Generation]()
    seconds = timed(lambda: said.extend(engine.generate([prompt], Decoding(max_new_tokens=new))))
    return seconds, len(said[0].token_ids)


def _by_the_clock(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
