"""Bounded admission: so many answers at once, so many waiting, and everyone else is told to come back."""

from __future__ import annotations

import asyncio
from collections import deque

from planish.server.refusal import Refusal

RETRY_AFTER_S = 1


class Admission:
    """`slots` requests run, `queue` wait in order, the next is refused with 429. Used from one event loop only.

    A slot belongs to the engine's work, not to the request: `leave` is called when the engine has let go, which may be after the client has gone.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.slots = slots
        self.queue = queue
        self.running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiting)

    async def enter(self) -> None:
        """Take a slot, waiting for one if the queue has room. Raises Refusal (429) when it has not."""
        if self.running < self.slots and not self._waiting:
            self.running += 1
            return
        if len(self._waiting) >= self.queue:
            message = f"all {self.slots} slots are busy and {self.queue} requests wait already; try again later"
            raise Refusal(429, message, code="queue_full", retry_after=RETRY_AFTER_S)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the slot was handed over in the moment the client went away
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Give a slot back: to the first who waits, else to nobody."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
