"""How work, time and memory are measured: counters that have no noise, sides run in turn in one process, paired ratios with an interval, and what others took of the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]

from planish.evidence.intervals import bootstrap
from planish.model.precision import choose, cpu_flags

PAIRS, QUICK_PAIRS = 7, 2

Run = Callable[[], object]


class Ratio(NamedTuple):
    """Median of the paired ratios peer / ours, its 95 % bootstrap interval, and the number of pairs."""

    median: float
    low: float
    high: float
    pairs: int


class Foreign:
    """Measures what other processes took of the machine's processor time: all busy time less this process's and its children's."""

    def __enter__(self) -> Foreign:
        self.began, self.busy, self.own = time.perf_counter(), _busy(), _own()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self.began
        self.share = max(0.0, (_busy() - self.busy) - (_own() - self.own)) / (wall * (psutil.cpu_count() or 1))


def _busy() -> float:
    now = psutil.cpu_times()
    return float(sum(now) - now.idle - getattr(now, "iowait", 0.0) - getattr(now, "guest", 0.0) - getattr(now, "guest_nice", 0.0))


def _own() -> float:
    return float(sum(os.times()[:4]))


def machine(device: str) -> str:
    """One line: processor, cores, memory, flags that decide speed."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = sorted({"avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16"} & cpu_flags())
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {' '.join(flags)}, {torch.get_num_threads()} threads, precision {choose('auto')}"


def versions() -> dict[str, str]:
    """The packages whose versions a figure depends on."""
    found = {}
    for package in ("torch", "transformers", "peft", "trl"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def flops(run: Run) -> float:
    """Floating-point operations of the matrix products and attention of one run, forward and backward, in 1e9."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def in_place(_: object, left: tuple[int, int], right: tuple[int, int], **__: object) -> int:
        return 2 * left[0] * left[1] * right[1]

    def attention(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(query, key, value))

    def attention_backward(out: Any, query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
        return int(sdpa_backward_flop_count(out, query, key, value))

    aten = torch.ops.aten  # what torch's own table lacks: the in-place form, and attention on a CPU
    more = {
        aten.addmm_: in_place,
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        run()
    return counter.get_total_flops() / 1e9


def interleaved(sides: Mapping[str, Run], pairs: int, device: str) -> dict[str, list[float]]:
    """Seconds of each side, in turn (ABAB), after one untimed round."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round in range(pairs + 1):
        for name, run in sides.items():
            wait(device)
            began = time.perf_counter()
            run()
            wait(device)
            if round:
                taken[name].append(time.perf_counter() - began)
    return taken


def wait(device: str) -> None:
    """Until the accelerator has done all it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def ratio(above: list[float], below: list[float]) -> Ratio:
    """Median of above / below, pair by pair, with the bootstrap interval of that median."""
    values = np.array(above) / np.array(below)
    order = np.argsort(values)

    def median(weights: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        reached = np.cumsum(weights[:, order], axis=1) >= len(values) / 2
        return np.asarray(values[order][reached.argmax(axis=1)])

    interval = bootstrap(median, len(values))
    return Ratio(float(np.median(values)), interval.low, interval.high, len(values))


def once(value: float) -> Ratio:
    """A counted figure: no spread."""
    return Ratio(value, value, value, 1)


def share(hits: int, runs: int) -> Ratio:
    """A share of simulated runs with its exact 95 % interval (Clopper and Pearson)."""
    ends = binomtest(hits, runs).proportion_ci(0.95, method="exact")
    return Ratio(hits / runs, float(ends.low), float(ends.high), runs)


def peak_of(*options: str) -> dict[str, float]:
    """Peak memory in MiB of a fresh process of this script that runs one side, and what it held before: `--alone SIDE` and what else the side needs."""
    done = subprocess.run([sys.executable, sys.argv[0], *options], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def alone(build: Callable[[], Run], device: str) -> int:
    """In that process: build the side, run it, say the peak. On an accelerator: its own memory."""
    run = build()
    loaded = _held("VmRSS") if device == "cpu" else torch.cuda.memory_allocated() / 2**20
    run()
    peak = _held("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"peak_MiB": peak, "loaded_MiB": loaded}))
    return 0


def _held(what: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(what))) / 1024


def live_bytes(run: Run) -> int:
    """The most bytes of tensors made in `run` that exist at one time, backward pass included, counted exactly: works on the meta device, which computes nothing."""
    import weakref

    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counting(TorchDispatchMode):
        now = most = 0
        known: weakref.WeakSet[Any] = weakref.WeakSet()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor) and id(storage := leaf.untyped_storage()) not in given and storage not in self.known:
                    self.known.add(storage)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.freed, storage.nbytes())
            return out

        def freed(self, size: int) -> None:
            self.now -= size

    with Counting() as counting:
        run()
    return counting.most


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """The number format of a plain side."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
