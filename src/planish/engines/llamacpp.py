"""llama.cpp on the CPU: a GGUF file served by a worker process, with shared prefixes kept between requests."""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from planish.errors import InputError, Problem, RunFailed
from planish.lazy import require
from planish.model.choice import branches, probabilities
from planish.model.engine import Decoding, Delta, Generation
from planish.model.worker import Worker, begin, serve

START_S = 120.0  # loading a file from a cold disk
SILENCE_S = 600.0  # the longest wait for the next piece of an answer
PHYSICAL_BATCH = 512  # prompt tokens that llama.cpp computes at once
LARGE_BATCH = 16  # tokens from which on the cut of a prompt into batches leaves no trace in the bits
BIAS = 100.0  # lifts the allowed tokens above all others; the same for each, so it cancels among them
Answer = TypeVar("Answer")
RANDOM_SEED = 2**32 - 1  # llama.cpp reads this one as "no seed"


def start(model: Path, *, context: int = 4096, slots: int = 2, threads: int = 0, exact: bool = True) -> LlamaCppEngine:
    """Start a worker on the GGUF file `model`; `context` tokens for prompt and answer in each of `slots`, `threads` 0 takes every core. An adapter that was exported beside it
    (`model-Q8_0.adapter.gguf`) is laid over.

    `exact` answers one request at a time, so that no answer depends on its neighbours: batched rows round differently, and 4-bit models turn that into other
    words. Without it `slots` requests run together: for serving many. Raises InputError when there is no such file or its header is not sound,
    RunFailed with the end of the worker's log when it does not start.
    """
    if not model.is_file():
        raise InputError(Problem(str(model), "is no file", "export a GGUF file first"))
    require("xllamacpp", extra="gguf")
    from planish.model.gguf_header import read_tensors
    from planish.model.gguf_lora import adapter_beside

    beside = adapter_beside(model)
    adapter = str(beside) if beside.is_file() else None
    if adapter is not None:
        read_tensors(beside)
    read_tensors(model)  # nothing native is given a file whose counts and offsets lead out of it
    key = secrets.token_urlsafe(32)
    config = {"model": str(model), "context": context, "slots": slots, "threads": threads or available_cores(), "exact": exact, "key": key, "adapter": adapter}
    worker = Worker("planish.engines.llamacpp", config, timeout=START_S)
    try:
        return LlamaCppEngine(worker, key, context=context, slots=slots, exact=exact)
    except BaseException:
        worker.close()
        raise


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Slot:
    """One of the worker's key-value caches: the prompt it holds, and what was generated after it (None: unknown, a stream was cut)."""

    id: int
    prompt: tuple[int, ...] = ()
    after: int | None = None
    busy: bool = False

    def shared(self, prompt: tuple[int, ...]) -> int:
        """How many tokens `prompt` begins with that this slot holds."""
        return next((at for at, (mine, theirs) in enumerate(zip(self.prompt, prompt, strict=False)) if mine != theirs), min(len(self.prompt), len(prompt)))

    def reusable(self, prompt: tuple[int, ...]) -> bool:
        """Whether going on from this slot's cache gives the very bits that computing `prompt` from nothing would.

        llama.cpp computes few tokens by other kernels than many (measured: up to 5 differ, from 8 on every split gives the same bits). Kept are prefixes that
        were computed in large batches, not generated one by one, and only where the rest of the prompt is a large batch as well.
        """
        shared = min(self.shared(prompt), len(prompt) - 1)
        if shared == len(self.prompt) and self.after in (None, prompt[shared]):
            return False
        counts = (len(prompt), len(prompt) - shared, len(self.prompt))
        return all(count % PHYSICAL_BATCH == 0 or count % PHYSICAL_BATCH >= LARGE_BATCH for count in counts)


class LlamaCppEngine:
    """The worker's client. Prompts are token ids. `context` is what the worker grants: never more than the model was trained for."""

    name = "llamacpp"

    def __init__(self, worker: Worker, key: str, *, context: int, slots: int, exact: bool) -> None:
        httpx = require("httpx", extra="serve")
        self.exact = exact
        self._worker = worker
        self._broken: type[Exception] = httpx.TransportError
        self._client = httpx.Client(
            base_url=worker.ready["address"],
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(SILENCE_S, connect=5.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,  # a proxy from the environment must not see calls to this machine
        )
        self._slots = [Slot(index) for index in range(slots)]
        self._free = threading.Condition()
        self.context = min(context, int(self._client.get("/props").raise_for_status().json()["default_generation_settings"]["n_ctx"]))

    def generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Generation]:
        """One answer per prompt, in order. Raises InputError for prompts that do not fit (all at once), RunFailed "engine_died" when the worker is gone."""
        self._check(prompts, decoding.max_new_tokens)

        def answer(prompt: Sequence[int]) -> Generation:
            # Not streamed: in a stream llama.cpp leaves out the ids of tokens that end inside a character.
            [event] = self._events(prompt, {**wanted(decoding, self.context), "stream": False})
            ids = event["tokens"][:-1] if event["stop_type"] == "eos" else event["tokens"]
            text = event["content"]
            if finish(event) == "length":
                text = text.rstrip("\ufffd")  # a character cut in half, which a stream does not send either
            return Generation(text, tuple(ids), finish(event))

        return self._together(answer, prompts)

    def stream(self, prompt: Sequence[int], decoding: Decoding) -> Iterator[Delta]:
        """One answer in pieces; closing the iterator ends the computation at once.

        Token ids come one piece behind their text, because the end-of-turn token is known only afterwards and is not among them. Ids of tokens that end
        inside a character are missing: llama.cpp does not send them.
        """
        self._check([prompt], decoding.max_new_tokens)
        with closing(self._events(prompt, wanted(decoding, self.context))) as events:
            behind: tuple[int, ...] = ()
            for event in events:
                last = event["stop"]
                if last and event["stop_type"] == "eos":
                    behind = behind[:-1]
                yield Delta(event["content"], behind, finish(event) if last else None)
                behind = tuple(event.get("tokens", ()))

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> list[list[float]]:
        """(N, options) probabilities: one request per prompt and branching node, in which a common bias leaves only the allowed tokens."""
        try:
            nodes = branches(options)
        except ValueError as wrong:
            raise InputError(Problem("options", str(wrong), "give options of which none begins another")) from None
        self._check(prompts, 1 + max((len(path) for path in nodes), default=0))

        def weigh(prompt: Sequence[int]) -> list[float]:
            return probabilities(options, {path: self._node([*prompt, *path], allowed) for path, allowed in nodes.items()})

        return self._together(weigh, prompts)

    def memory(self) -> int | None:
        """Bytes: the most that the worker has had resident, its mapped file included; None where the system does not say."""
        try:
            lines = Path(f"/proc/{self._worker.process.pid}/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

    def close(self) -> None:
        """End the worker; safe to call twice."""
        self._client.close()
        self._worker.close()

    def _node(self, prompt: Sequence[int], allowed: Sequence[int]) -> dict[int, float]:
        settings = {"n_predict": 1, "temperature": 1.0, "samplers": ["temperature"], "seed": 0, "n_probs": len(allowed), "post_sampling_probs": True}
        found: dict[int, float] = {}
        for event in self._events(prompt, {**settings, "logit_bias": [[token, BIAS] for token in allowed]}):
            for place in event.get("completion_probabilities", ()):
                found |= {entry["id"]: entry["prob"] for entry in place["top_probs"]}
        if not set(allowed) <= set(found):
            raise RunFailed(Problem(self.name, f"gave no probability for the tokens {sorted(set(allowed) - set(found))}"))
        return {token: math.log(found[token]) if found[token] > 0 else -1e9 for token in allowed}

    def _together(self, one: Callable[[Sequence[int]], Answer], items: Sequence[Sequence[int]]) -> list[Answer]:
        if self.exact or len(items) < 2:
            return [one(item) for item in items]
        with ThreadPoolExecutor(len(self._slots)) as pool:
            return list(pool.map(one, items))

    def _check(self, prompts: Sequence[Sequence[int]], more: int) -> None:
        problems = []
        for index, prompt in enumerate(prompts):
            if not prompt:
                problems.append(Problem(f"prompt {index}", "has no tokens"))
            elif len(prompt) + more > self.context:
                why = f"{len(prompt)} tokens and {more} new ones do not fit the context of {self.context}"
                problems.append(Problem(f"prompt {index}", why, "raise context, or lower max_new_tokens"))
        if problems:
            raise InputError(*problems)

    @contextmanager
    def _slot(self, prompt: tuple[int, ...]) -> Iterator[Slot]:
        """The free slot that shares most with `prompt`; waits for one (with `exact`, until no request runs)."""
        with self._free:
            while all(slot.busy for slot in self._slots) or (self.exact and any(slot.busy for slot in self._slots)):
                self._free.wait()
            slot = max((slot for slot in self._slots if not slot.busy), key=lambda slot: slot.shared(prompt))
            slot.busy = True
        try:
            yield slot
        finally:
            with self._free:
                slot.busy = False
                self._free.notify()

    def _events(self, prompt: Sequence[int], settings: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The server's events of one completion, the last with "stop" true; a single one when not streamed. Closing it ends the computation."""
        ids = tuple(prompt)
        with self._slot(ids) as slot:
            body = {"prompt": ids, "stream": True, "id_slot": slot.id, "cache_prompt": not self.exact or slot.reusable(ids), **settings}
            slot.prompt, slot.after = ids, None
            first: int | None = None
            try:
                with self._client.stream("POST", "/completion", json=body) as response:
                    if response.status_code != 200:
                        raise RunFailed(Problem(self.name, f"answered {response.status_code}: {response.read().decode()[:500]}"))
                    for line in response.iter_lines():
                        if not line.startswith(("data: ", "{")):
                            continue
                        event = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            raise RunFailed(Problem(self.name, f"failed: {event['error']}"))
                        first = next(iter(event.get("tokens", ())), None) if first is None else first
                        if event.get("stop"):
                            slot.after = first if event["tokens_predicted"] > 1 else -1  # the token sampled last never enters the cache
                        yield event
                        if event.get("stop"):
                            return
            except self._broken as broken:
                if self._worker.died():
                    raise self._worker.failure("died while it answered") from broken
                raise RunFailed(Problem(self.name, f"broke the connection: {broken}")) from broken
            raise self._worker.failure("ended its answer early")


def finish(event: Mapping[str, Any]) -> Literal["stop", "length"]:
    """How the answer ended that `event` is the last of."""
    return "length" if event["stop_type"] == "limit" else "stop"


def wanted(decoding: Decoding, context: int) -> dict[str, Any]:
    """llama.cpp's settings for `decoding`: penalty, temperature, top-k, top-p, min-p (MISSION E2), and none of its other samplers.

    Its draws are its own: a seed gives the same answer here each time, and another one than in another engine. A constraint is its llguidance grammar (MISSION E3).
    """
    settings: dict[str, Any] = {"n_predict": decoding.max_new_tokens, "stop": list(decoding.stop), "return_tokens": True}
    samplers = []
    if decoding.repetition_penalty != 1:
        samplers.append("penalties")
        settings |= {"repeat_penalty": decoding.repetition_penalty, "repeat_last_n": context}  # all of it, as transformers counts
    if decoding.constraint is not None:
        settings["grammar"] = f"%llguidance {{}}\n{decoding.constraint.lark}"
    if decoding.greedy:
        return {**settings, "samplers": [*samplers, "top_k"], "top_k": 1, "temperature": 1.0}
    settings |= {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p, "min_p": decoding.min_p, "min_keep": 0}
    return {**settings, "samplers": [*samplers, "temperature", "top_k", "top_p", "min_p"], "seed": decoding.seed % RANDOM_SEED}


def main() -> None:
    """The worker: llama.cpp's server inside this process, on a free port of the loopback address."""
    config, answer = begin()
    import xllamacpp  # type: ignore[import-untyped]

    params = xllamacpp.CommonParams()
    params.model.path = config["model"]
    if config["adapter"] is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(config["adapter"], 1.0)]
    params.n_parallel = config["slots"]
    params.n_ctx = config["context"] * config["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config["threads"]
    params.n_ubatch = PHYSICAL_BATCH
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [config["key"]]
    params.cache_ram_mib, params.cache_idle_slots = 0, False  # it would bring back states that the client does not know of
    params.ui, params.endpoint_slots, params.verbosity = False, False, 1
    if config["exact"]:
        # Both make the sums of a token depend on how the prompt was cut into batches.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type(0)  # off
        params.no_extra_bufts = True  # weights repacked for four rows at a time
    server = xllamacpp.Server(params)
    serve(answer, {"address": server.listening_address})


if __name__ == "__main__":
    main()
