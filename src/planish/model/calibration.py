"""What a probe has measured on this machine, kept in the user's cache by kind of setup: it corrects the memory model's formulas (MISSION T7)."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import platformdirs

from planish.model.memory_setup import Setup
from planish.rows import content_hash
from planish.store.objects import write_atomic


def remembered(setup: Setup) -> float | None:
    """Measured over predicted, for activations, logits and temporaries of such a setup here, from an earlier probe."""
    path = _path(setup)
    return float(json.loads(path.read_text(encoding="utf-8"))["factor"]) if path.is_file() else None


def remember(setup: Setup, factor: float, *, measured: float, predicted: float) -> None:
    """Keep a factor, with the peaks in bytes that it comes from."""
    path = _path(setup)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"factor": factor, "measured": measured, "predicted": predicted}).encode())


def _path(setup: Setup) -> Path:
    """By processor, machine, device, technique, precision and checkpointing."""
    what = [platform.machine(), platform.node(), setup.device, setup.technique, setup.precision, setup.checkpointed]
    return platformdirs.user_cache_path("planish") / "memory" / f"{content_hash(what)}.json"
