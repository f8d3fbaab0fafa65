"""How work in progress is shown: a bar with time left, or nothing. Stages speak to this protocol and never to a terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Protocol


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, count: int, note: str = "", /) -> None:
        """`count` more units are done; `note` (30 characters at most) stands behind the label until the next one."""


class Progress(Protocol):
    """What a stage may show."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A bar over `total` units while the context lasts; the context gives the function that advances it."""


_interrupted = threading.Event()


def heed_interrupts() -> None:
    """Let Ctrl-C be raised once more by the next step of a bar, should it fall into a finaliser or a callback, where Python drops exceptions."""

    def heard(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, heard)


class Silent:
    """Shows nothing: for scripts and tests."""

    def say(self, text: str) -> None:
        """Drop the line."""

    @contextmanager
    def _nothing(self) -> Iterator[Advance]:
        yield lambda count, note="": None

    def bar(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A bar that is not drawn."""
        return self._nothing()


class Terminal:
    """Bars and lines on standard error, so that standard output stays for results."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, markup=False)

    @contextmanager
    def _drawn(self, label: str, total: int) -> Iterator[Advance]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        wide = self.console.width >= 100
        columns = [
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30 if wide else 9),
            MofNCompleteColumn(),
            *([TimeElapsedColumn()] if wide else []),
            TextColumn("left"),
            TimeRemainingColumn(),
        ]
        with Bars(*columns, console=self.console, disable=not self.console.is_terminal) as bars:
            task = bars.add_task(label, total=total)

            def advance(count: int, note: str = "", /) -> None:
                if _interrupted.is_set():
                    raise KeyboardInterrupt
                bars.update(task, advance=count, description=f"{label} {note}" if note else label)

            yield advance

    def bar(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A bar with units done, time spent and time left."""
        return self._drawn(label, total)
