"""The live curve: one line of figures a step in `metrics.jsonl`, and the same figures in batches for whoever records them at a bounded rate (MISSION T1)."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from planish.store.objects import write_atomic

SECONDS = 5.0
"""At most one batch in so many seconds: what is recorded of a run must not cost it anything."""
POINTS = 50
"""At most so many points in a batch; of more, evenly spaced ones and every validation are kept, and the batch says of how many."""


@dataclass(frozen=True)
class Step:
    """What one step reports. `loss` is the mean over trained tokens; `tokens` is cumulative and counts what the model computed, `tokens_in` what it stood for.

    `metrics` and `validation_metrics` are the objective's own figures by name, means like the loss.
    """

    step: int
    tokens: int
    tokens_in: int
    loss: float
    grad_norm: float
    learning_rate: float
    tok_s: float
    memory_mb: float
    validation_loss: float | None = None
    skipped: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    validation_metrics: dict[str, float] = field(default_factory=dict)


class Figures:
    """`metrics.jsonl`, opened at `step`: lines of steps that will be run again, and a line torn by a kill, are dropped first."""

    def __init__(self, path: Path, step: int) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_atomic(path, "".join(line + "\n" for line in kept).encode())
        self._out = path.open("a", encoding="utf-8")

    def add(self, line: Step) -> None:
        """One line, readable by others at once."""
        self._out.write(json.dumps(asdict(line)) + "\n")
        self._out.flush()

    def sync(self) -> None:
        """On disk: a checkpoint must never be ahead of its figures."""
        os.fsync(self._out.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._out.close()


class Batches:
    """Gathers steps and hands them on as one body `{first, last, of, points}` when SECONDS have passed, and when it is closed."""

    def __init__(self, record: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._record, self._clock = record, clock
        self._waiting: list[Step] = []
        self._last = clock()

    def add(self, line: Step) -> None:
        """Take a step; record what has gathered if it is time."""
        self._waiting.append(line)
        if self._clock() - self._last >= SECONDS:
            self.close()

    def close(self) -> None:
        """Record what has gathered."""
        if self._waiting:
            stride = -(-len(self._waiting) // POINTS)
            points = [asdict(line) for at, line in enumerate(self._waiting) if at % stride == 0 or line.validation_loss is not None]
            self._record({"first": self._waiting[0].step, "last": self._waiting[-1].step, "of": len(self._waiting), "points": points})
        self._waiting, self._last = [], self._clock()


def note(line: Step) -> str:
    """A step in a few words for a bar of 80 columns: `loss 0.412 lr 1.9e-04 1234 tok/s`."""
    return f"loss {line.loss:.3f} lr {line.learning_rate:.1e} {line.tok_s:.0f} tok/s"


def memory_mb(device: str = "cpu") -> float:
    """Peak memory: resident of this process on a CPU, allocated on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
