"""How long this machine takes for one more token of a model of given shapes, measured (MISSION Z9): products take as long whatever the numbers, so none are read."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from planish.rows import Noun

CONTEXT, STEPS, REPEATS = 64, 8, 5


class StepTime(Noun):
    """Milliseconds a token: what was asked for, and measured before and after; `how` says of what."""

    target: float
    before: float
    after: float
    how: str


def step_seconds(config: Mapping[str, Any]) -> float:
    """Median seconds of a next-token step of the model that transformers builds of `config`: fp32, one sequence, CONTEXT tokens before it in the cache."""
    from transformers.cache_utils import DynamicCache

    with torch.inference_mode():
        model = built(config)
        taken = [seconds for _ in range(REPEATS) for seconds in _steps(model, DynamicCache())]
    return statistics.median(taken)


def pass_seconds(config: Mapping[str, Any], tokens: int) -> float:
    """Median seconds of one pass over a sequence of so many tokens, without a cache."""
    with torch.inference_mode():
        model = built(config)
        return statistics.median(taken(lambda: model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)) for _ in range(REPEATS))


def taken(work: Callable[[], object]) -> float:
    """Seconds of `work` in this process: the lesser of the clock's, which run on while others hold the cores, and the processor's, which count every thread."""
    began, worked = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - began, time.process_time() - worked)


def built(config: Mapping[str, Any]) -> Any:
    """The model that transformers builds of `config`, in fp32, every number 0."""
    from transformers import AutoConfig, AutoModelForCausalLM

    told = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(str(config["model_type"]), **told), trust_remote_code=False, dtype=torch.float32)
    model = model.to_empty(device="cpu").eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.zero_()
    return model


def _steps(model: Any, past: Any) -> list[float]:
    model(input_ids=torch.zeros(1, CONTEXT, dtype=torch.long), past_key_values=past, use_cache=True, logits_to_keep=1)
    found = []
    for _ in range(STEPS):
        began = time.perf_counter()
        model(input_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=past, use_cache=True)
        found.append(time.perf_counter() - began)
    return found


def how() -> str:
    """What was measured, in words."""
    return (
        f"a next-token step in transformers on this machine: fp32, {torch.get_num_threads()} threads, one sequence, {CONTEXT} tokens before it, "
        f"median of {STEPS * REPEATS}"
    )
