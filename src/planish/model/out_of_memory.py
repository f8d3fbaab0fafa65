"""How running out of memory shows: an allocator's error, a C++ runtime's last words, or the kernel's kill, which is no exception and is read from outside (MISSION T8)."""

from __future__ import annotations

import os
import re
from pathlib import Path

SIGNS = (
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory: you tried to allocate",
    "out of memory",  # CUDA and its libraries
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "Cannot allocate memory",  # the C library's own words
)
PREFERRED_VICTIM = 500
"""Added to a trainer's score in the kernel's choice of whom to kill: who supervises it must outlive it."""
_PROC = Path("/proc")
_HELD = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's own, torch's on any device, or a RuntimeError of a CPU allocator, which has no type of its own."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (isinstance(error, (RuntimeError, OSError)) and says_so(str(error)))


def says_so(text: str) -> bool:
    """Whether a log ends in an allocator's words."""
    return any(sign in text for sign in SIGNS)


def held(process: int) -> int | None:
    """Bytes that a process holds and the kernel cannot take back: its own and shared memory, resident or swapped out. Pages of mapped files are not among them.

    None where the system does not tell (no Linux), or the process is gone.
    """
    try:
        found = _HELD.findall((_PROC / str(process) / "status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return 1024 * sum(map(int, found)) if found else None


def kernel_kills() -> int | None:
    """How often the kernel has killed for memory since it started, in any control group; None where it does not tell."""
    try:
        stated = re.search(r"^oom_kill (\d+)$", (_PROC / "vmstat").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(stated[1]) if stated else None


def offer_as_victim() -> None:
    """Let the kernel choose this process, before those that supervise it, when memory runs out. Raising one's own score needs no right."""
    score = _PROC / "self" / "oom_score_adj"
    if os.access(score, os.W_OK):
        score.write_text(str(PREFERRED_VICTIM), encoding="ascii")
