"""An engine's blocking iterator as an asynchronous one: a thread per answer, and a slot that is given back when the engine has let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from planish.model.engine import Decoding, Delta, Engine

PING_S = 15.0


class EngineFailed(Exception):
    """The engine raised while answering; the cause is chained."""


class Answer:
    """One answer on its way. Iterate `deltas()`; `cancel()` tells the engine to stop after the token it is making.

    `left` is called once, on the event loop, when the engine has let go.
    """

    def __init__(self, make: Callable[[], Iterator[Delta]], left: Callable[[], None]) -> None:
        self._make = make
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue()
        self._cancelled = threading.Event()
        # A daemon: a hung engine must not keep the process from ending.
        threading.Thread(target=self._run, name="planish-answer", daemon=True).start()

    def cancel(self) -> None:
        """Ask the engine to stop; returns at once."""
        self._cancelled.set()

    async def deltas(self, ping: float = PING_S) -> AsyncIterator[Delta | None]:
        """The pieces in order; None each time `ping` seconds pass without one. Raises EngineFailed. Leaving the loop early cancels."""
        try:
            while True:
                try:
                    async with asyncio.timeout(ping):  # wait_for of Python 3.11 loses a cancellation that meets a piece
                        piece = await self._pieces.get()
                except TimeoutError:
                    yield None
                    continue
                if piece is None:
                    return
                if isinstance(piece, BaseException):
                    raise EngineFailed(type(piece).__name__) from piece
                yield piece
        finally:
            self.cancel()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            pieces = self._make()
            try:
                for piece in pieces:
                    if self._cancelled.is_set():
                        break
                    self._post(self._pieces.put_nowait, piece)
            finally:
                close = getattr(pieces, "close", None)  # frees the engine's slot; a list has none
                if close is not None:
                    close()
        except BaseException as failure:
            last = failure
        self._post(self._pieces.put_nowait, last)
        self._post(self._left)

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            self._cancelled.set()  # the loop has ended: the process is going down


def streamed(engine: Engine, prompt: Sequence[int], decoding: Decoding) -> Callable[[], Iterator[Delta]]:
    """The engine's free answer."""
    return lambda: engine.stream(prompt, decoding)


def chosen(engine: Engine, prompt: Sequence[int], labels: Sequence[str], options: Sequence[Sequence[int]]) -> Callable[[], Iterator[Delta]]:
    """The likeliest of the labels as one piece. Ties go to the first. No sampling: `temperature` does not apply to a choice."""

    def make() -> Iterator[Delta]:
        [probabilities] = engine.choose([prompt], options)
        best = max(range(len(labels)), key=probabilities.__getitem__)
        return iter([Delta(text=labels[best], token_ids=tuple(options[best]), finish="stop")])

    return make
