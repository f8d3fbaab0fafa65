"""Which number format a run computes in: bf16 where the processor has it in hardware, read from its capability flags and never from a stopwatch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from planish.errors import InputError, Problem

if TYPE_CHECKING:
    from torch.amp import GradScaler

Format = Literal["fp32", "bf16", "fp16"]
Asked = Literal["auto", "fp32", "bf16", "fp16"]


def choose(asked: Asked, device: str = "cpu") -> Literal["fp32", "bf16"]:
    """The format to score in. What was trained in fp16 is scored as `auto` is: fp16 was for its speed, and every fp16 number is an fp32 one."""
    if asked in ("fp32", "bf16"):
        return asked
    if device != "cpu":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "fp32"


def for_training(asked: Asked, device: str = "cpu") -> Format:
    """The format to train in. The choice is written in the plan and the checkpoint, so that a resumed run never chooses again.

    Raises InputError for fp16 on a CPU: its matrix products are computed there in fp32 and converted, slower than either, with fp16's narrow range.
    """
    if asked == "fp16" and device == "cpu":
        why = "fp16 gains nothing on a CPU: its products are made in fp32 and converted, and its range overflows"
        raise InputError(Problem("train.precision", why, "write auto: it takes bf16 where the machine has it, and fp32 elsewhere"))
    return "fp16" if asked == "fp16" else choose(asked, device)


def scaler(precision: Format, device: str = "cpu") -> GradScaler:
    """The loss scale that keeps fp16 gradients from vanishing (arXiv 1710.03740); it does nothing in the other formats, whose range is fp32's."""
    import torch

    return torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")


def cpu_flags() -> set[str]:
    """The processor's capability flags as Linux lists them; empty where they cannot be read."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    line = next((line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())
