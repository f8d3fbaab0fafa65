"""A scripted engine and a real gateway on a free port."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import uvicorn

from planish.data.redact import Redactor
from planish.data.request_log import JsonlRequestLog
from planish.errors import InputError, Problem
from planish.model.engine import Decoding, Delta, Generation
from planish.rows import Message
from planish.server.app import create_app
from planish.server.keys import KeyRing
from planish.server.run import _bound
from planish.server.served import Served

WORDS = ["The", " sound", " is", " good", " \u00e9\u4e16", "\n", "data: [DONE]"]


class FakeEngine:
    """Says `words`, `latency` seconds each; may wait for `gate`; fails after `fail_after` words. Counts what is at work."""

    name = "fake"

    def __init__(self, words: Sequence[str] = WORDS, latency: float = 0.0, fail_after: int | None = None) -> None:
        self.words, self.latency, self.fail_after = list(words), latency, fail_after
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0
        self.freed_at: list[float] = []
        self.prompts: list[list[int]] = []
        self.decodings: list[Decoding] = []

    def generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Generation]:
        return [Generation("".join(delta.text for delta in self.stream(prompt, decoding)), (), "stop") for prompt in prompts]

    def stream(self, prompt: Sequence[int], decoding: Decoding) -> Iterator[Delta]:
        with self.lock:
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            self.prompts.append(list(prompt))
            self.decodings.append(decoding)
        try:
            self.gate.wait(20)
            for index, word in enumerate(self.words[: decoding.max_new_tokens]):
                time.sleep(self.latency)
                if index == self.fail_after:
                    raise RuntimeError("secret text in a traceback")
                yield Delta(word, (index,))
            yield Delta("", (), "length" if len(self.words) > decoding.max_new_tokens else "stop")
        finally:
            with self.lock:
                self.busy -= 1
                self.freed_at.append(time.monotonic())

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> list[list[float]]:
        self.options = [list(option) for option in options]
        weights = [float(len(option)) for option in options]
        return [[weight / sum(weights) for weight in weights] for _ in prompts]

    def close(self) -> None:
        pass


def render(messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
    """A byte per token, the names of the tools first; refuses two user turns in a row, as templates do."""
    for before, after in pairwise(messages):
        if before.role == after.role:
            raise InputError(Problem("messages", "roles must alternate", "merge the turns"))
    offered = "".join(f"<tool>{tool['function']['name']}" for tool in tools)
    return list((offered + "".join(f"<{message.role}>{message.content}" for message in messages)).encode())


class Running:
    """A gateway that answers on `url`."""

    def __init__(self, engine: FakeEngine, app: Any, port: int, log: JsonlRequestLog, key: str) -> None:
        self.engine, self.app, self.log, self.key = engine, app, log, key
        self.root = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.root}/v1", api_key=key, max_retries=0)

    @property
    def gateway(self) -> Any:
        return self.app.state.gateway

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}"}


class StillRedactor(Redactor):
    """A redactor without presidio, for the tests that are not about redaction."""

    def __init__(self) -> None:
        pass

    def value(self, value: Any, seen: dict[str, str] | None = None) -> tuple[Any, dict[str, int]]:
        return value, {}


@contextlib.contextmanager
def running(folder: Path, engine: FakeEngine | None = None, *, redactor: Redactor | None = None, **options: Any) -> Iterator[Running]:
    """Start a gateway in a thread and stop it."""
    engine = engine or FakeEngine()
    ring = KeyRing()
    key = ring.create("all", ["infer", "feedback", "read"])
    served = Served(
        name="tiny", engine=engine, render=render, encode=lambda text: list(text.encode()), end=0, context_length=2000, vocab_size=256,
        unproven=options.pop("unproven", False), template_hash="t" * 64, package_hash="p" * 64,
    )  # fmt: skip
    log = JsonlRequestLog(folder / "requests.jsonl", redactor or StillRedactor())
    app = create_app(served, log=log, keys=options.pop("keys", ring), **options)
    listening = _bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    gateway = Running(engine, app, listening.getsockname()[1], log, key)
    try:
        yield gateway
    finally:
        engine.gate.set()
        gateway.client.close()
        server.should_exit = True
        thread.join(10)
        log.close()


def wait_for(condition: Any, seconds: float = 5.0) -> bool:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())
