"""One function over many items on every core, in order, with a bounded number in flight: memory stays flat however long the input is."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 2048
"""Items handed to a process at one time: enough that handing over costs little, few enough that progress is seen."""


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_chunks(function: Callable[[list[T]], R], items: Iterable[T], *, chunk: int = CHUNK) -> Iterator[R]:
    """`function` of each run of `chunk` items, in order. Long input goes to forked processes where a fork is safe; all else is worked on here.

    What `function` takes and gives must be picklable; itself it is copied with the process, and all that it holds. An exception in a process is raised here.
    """
    source = iter(items)
    chunks = iter(lambda: list(islice(source, chunk)), [])
    ahead = list(islice(chunks, 2))
    if len(ahead) < 2 or cores() < 2 or not may_fork():
        yield from map(function, chain(ahead, chunks))
        return
    with ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("fork"), initializer=_begin, initargs=(function,)) as pool:
        waiting: deque[Future[R]] = deque(pool.submit(_work, part) for part in ahead)
        for part in chunks:
            if len(waiting) > 2 * cores():
                yield waiting.popleft().result()
            waiting.append(pool.submit(_work, part))
        while waiting:
            yield waiting.popleft().result()


_worked_by: list[Callable[[Any], Any]] = []  # in a forked process alone: what it is there for


def _begin(function: Callable[[list[T]], R]) -> None:
    gc.disable()
    _worked_by[:] = [function]


def _work(part: list[Any]) -> Any:
    return _worked_by[0](part)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile. Rows on their way hold no cycles, and each round of it would walk through all that is kept of them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def may_fork() -> bool:
    """Whether this process may be copied: not while another thread of it works, as a lock that one holds would stay held in the copy.

    What is mapped here computes with no library that keeps threads of its own (torch), so those of the parent are no hindrance; nor are Python's own that sleep until
    somebody needs them, as libraries leave behind: they hold nothing that is used here.
    """
    return sys.platform == "linux" and all(thread is threading.current_thread() or _sleeps(thread) for thread in threading.enumerate())


def _sleeps(thread: threading.Thread) -> bool:
    """Whether a thread that nobody waits for waits itself."""
    frame = sys._current_frames().get(thread.ident or 0)
    return thread.daemon and frame is not None and frame.f_code is threading.Condition.wait.__code__
