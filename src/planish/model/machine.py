"""What memory a process may take here: a GPU's own, or what of this machine's is free, within the limit of every control group that it runs in."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

USABLE = 0.95
"""What of a device's stated memory a process gets: the rest is its driver's and what fragmentation keeps."""
MARGIN = 0.1
"""Of what is free on a CPU, so much is left alone: others take memory too, and one who looks every so often looks late."""
_GROUPS, _PROC = Path("/sys/fs/cgroup"), Path("/proc")
_FILES = (("memory.max", "memory.current", "inactive_file"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
"""Limit, usage, and what of the usage the kernel takes back by itself: version 2 of control groups, and version 1."""


@dataclass(frozen=True)
class Machine:
    """Where it is to run: bytes that training may take there."""

    name: str
    kind: Literal["cpu", "cuda"]
    bytes: float


def here() -> Machine:
    """This machine: its GPU's memory, or what of its own is free now."""
    import torch

    if torch.cuda.is_available():
        return Machine(torch.cuda.get_device_name(0), "cuda", torch.cuda.get_device_properties(0).total_memory * USABLE)
    return Machine("this machine", "cpu", free())


def training_limit(asked: int | None, kind: Literal["cpu", "cuda"]) -> float:
    """Bytes that training may take: what was asked for, or what is here, less a margin."""
    if asked is not None:
        return float(asked)
    return here().bytes if kind == "cuda" else (1 - MARGIN) * free()


def free(groups: Path = _GROUPS, proc: Path = _PROC) -> float:
    """Bytes of memory that are free now: of the machine, and of each control group that limits this process, whichever is least."""
    found = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))]
    info = proc / "meminfo"
    if info.is_file() and (stated := re.search(r"MemAvailable:\s+(\d+) kB", info.read_text(encoding="utf-8"))):
        found = [int(stated[1]) * 1024.0]
    return min(found + [left for folder in _own_groups(groups, proc) if (left := _left(folder)) is not None])


def _own_groups(groups: Path, proc: Path) -> list[Path]:
    """The folders of the groups that this process is in, up to the root: in a container its own group often is the root that it sees."""
    listed = proc / "self" / "cgroup"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            root = groups if controllers == "" else groups / "memory"
            inner = root / path.lstrip("/")
            found += [inner, *(parent for parent in inner.parents if parent.is_relative_to(root))]
    return found


def _left(folder: Path) -> float | None:
    """Bytes that a group may still take; None where it has no limit or says nothing."""
    for limit, usage, reclaimable in _FILES:
        try:
            stated, used = ((folder / name).read_text(encoding="utf-8").strip() for name in (limit, usage))
            counts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):
            continue
        if stated.isdigit():
            return max(0.0, float(stated) - float(used) + float(counts.get(reclaimable, 0)))
    return None
