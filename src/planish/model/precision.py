"""Which number format a run computes in: bf16 where the processor has it in hardware, read from its capability flags and never from a stopwatch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def choose(asked: Literal["auto", "fp32", "bf16"], device: str = "cpu") -> Literal["fp32", "bf16"]:
    """The format to use. The choice is written in the plan and the checkpoint, so that a resumed run never chooses again."""
    if asked != "auto":
        return asked
    if device != "cpu":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "fp32"


def cpu_flags() -> set[str]:
    """The processor's capability flags as Linux lists them; empty where they cannot be read."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    line = next((line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())
