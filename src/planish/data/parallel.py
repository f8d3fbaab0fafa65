"""One function over many items on every core, in order, with a bounded number in flight: memory stays flat however long the input is."""

from __future__ import annotations

import ctypes
import gc
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 2048
"""Items handed to a process at one time: enough that handing over costs little, few enough that progress is seen."""


SLOT = 1 << 22
"""Bytes of memory, shared with the processes, in which one of them leaves what it made of a run: a pipe would be filled and emptied some dozens of times meanwhile."""


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
    with _Slots(2 * cores() + 2) as slots, _pool(function, slots) as pool:
        free, waiting = deque(range(slots.count)), deque[tuple[int, Future[int | bytes]]]()
        for part in chain(ahead, chunks):
            if len(waiting) > 2 * cores():
                slot, made = waiting.popleft()
                free.append(slot)
                yield slots.taken(slot, made.result())
            slot = free.popleft()
            waiting.append((slot, pool.submit(_work, slot, part)))
        for slot, made in waiting:
            yield slots.taken(slot, made.result())


def map_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, in order, on every core: for large arrays, on which numpy works beside other threads. No thread outlives it, so none hinders a fork."""
    if cores() < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(cores()) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            if len(waiting) > 2 * cores():
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()


class _Slots:
    """Memory that this process shares with those forked from it, in which they leave what they made: pickled, as an executor's own pipe does it, and never on disk."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._memory = mmap.mmap(-1, SLOT * count)

    def __enter__(self) -> _Slots:
        return self

    def __exit__(self, *raised: object) -> None:
        self._memory.close()

    def left(self, slot: int, made: Any) -> int | bytes:
        """Leave something in a slot: its size, or itself where it is too large."""
        data = pickle.dumps(made, pickle.HIGHEST_PROTOCOL)
        if len(data) > SLOT:
            return data
        self._memory[slot * SLOT : slot * SLOT + len(data)] = data
        return len(data)

    def taken(self, slot: int, left: int | bytes) -> Any:
        """What `left` says was left; a process of our own wrote it."""
        if isinstance(left, bytes):
            return pickle.loads(left)
        with memoryview(self._memory) as memory, memory[slot * SLOT : slot * SLOT + left] as data:
            return pickle.loads(data)


def _pool(function: Callable[[list[T]], R], slots: _Slots) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("fork"), initializer=_begin, initargs=(function, slots))


_PARENT_DIES = 1  # PR_SET_PDEATHSIG
_worked_by: list[tuple[Callable[[Any], Any], _Slots]] = []  # in a forked process alone: what it is there for, and where it leaves what it made


def _begin(function: Callable[[list[T]], R], slots: _Slots) -> None:
    ctypes.CDLL(None).prctl(_PARENT_DIES, signal.SIGKILL)  # else, were its parent killed, it would wait for work for ever
    gc.disable()
    _worked_by[:] = [(function, slots)]


def _work(slot: int, part: list[Any]) -> int | bytes:
    function, slots = _worked_by[0]
    return slots.left(slot, function(part))


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
