"""What a training run does, as it happens: events to the store, lines and a bar to the terminal."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal

from planish.events import EventType
from planish.model.curve import Batches, Step, note
from planish.progress import Advance
from planish.stages._context import Context


class Live:
    """Events to the store, the curve among them at a bounded rate; a bar with loss, rate, speed and time left."""

    def __init__(self, context: Context, label: str) -> None:
        self._context, self._label = context, label
        self._stack = ExitStack()
        self._advance: Advance | None = None
        self._done = 0
        self._batches = Batches(lambda body: context.event(EventType.TRAIN_CURVE, body))

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._batches.close()
        self._stack.close()

    def event(self, type: EventType, body: dict[str, Any], severity: Literal["info", "warning"] = "info") -> None:
        """Something to record."""
        self._context.event(type, body, severity=severity)

    def say(self, text: str) -> None:
        """Something to show."""
        self._context.progress.say(text)

    def begin(self, done: int, total: int) -> None:
        """The run is `done` of `total` steps in; a run that begins again after a lost rank keeps its bar."""
        if self._advance is None:
            self._advance = self._stack.enter_context(self._context.progress.bar(self._label, total))
        self._advance(done - self._done)
        self._done = done

    def step(self, line: Step) -> None:
        """One more step is done."""
        self._batches.add(line)
        self._done += 1
        if self._advance is not None:
            self._advance(1, note(line))
