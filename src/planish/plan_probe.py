"""Two real training steps in a process of their own, and the memory that they took: what corrects an estimate on this machine (MISSION T7)."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planish.errors import Problem, RunFailed
from planish.model.memory_setup import Setup

STEPS = 2
"""The second has the optimizer's state as well."""
SEED = 42
TAIL = 400
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Peak:
    """Bytes: `process` without the model's weights, once everything is loaded; `loading` at its worst before the first step; `steps` while it trained."""

    process: float
    loading: float
    steps: float


def measure(folder: Path, adapter: str, options: dict[str, Any], setup: Setup, seed: int = SEED) -> Peak:
    """Run the steps on random rows of the setup's micro-batch. Raises RunFailed out_of_memory when the process was killed for memory, and stage_failed when it ended otherwise."""
    request = {"folder": str(folder), "adapter": adapter, "options": options, "setup": asdict(setup), "seed": seed}
    done = subprocess.run([sys.executable, "-m", "planish.plan_probe"], input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Peak(**json.loads(done.stdout.splitlines()[-1]))
    killed = done.returncode == -9 or "out of memory" in done.stderr.lower() or "can't allocate memory" in done.stderr
    if killed:
        fix = "lower train.micro_tokens, or see what planish plan proposes without --measure"
        raise RunFailed(Problem("--measure", "the probe ran out of memory: it does not fit this machine", fix), reason_code="out_of_memory")
    raise RunFailed(Problem("--measure", f"the probe ended with {done.returncode}: {done.stderr[-TAIL:].strip()}", "planish doctor says what is missing"))


def main() -> None:
    """The child: a request on standard input, the peaks on standard output."""
    request = json.loads(sys.stdin.read())
    setup = Setup(**request["setup"])
    import torch

    from planish import shelf
    from planish.model.load import load
    from planish.model.recompute import checkpoint_activations

    attach = shelf.call("adapters", request["adapter"], "attach", request["options"])
    torch.manual_seed(request["seed"])
    kept: Any = "bf16" if setup.precision == "bf16" else "fp32"
    model = load(Path(request["folder"]), kept, trained=setup.technique == "full", device=setup.device, four_bit=setup.technique == "qlora")
    model = attach(model).to(setup.device)
    if setup.checkpointed:
        checkpoint_activations(model)
    loading = peak(setup.device)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    process = max(0.0, _now(setup.device) - weights)
    _forget(setup.device)
    _train(model, setup, request["seed"])
    sys.stdout.write(json.dumps(asdict(Peak(process, loading, peak(setup.device)))) + "\n")


def peak(device: str) -> float:
    """The most bytes that this process has taken: resident on a CPU, allocated on a GPU."""
    if device != "cpu":
        import torch

        return float(torch.cuda.max_memory_allocated())
    stated = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8")) if _STATUS.is_file() else None
    return float(stated[1]) * 1024 if stated else float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def _now(device: str) -> float:
    """Bytes that this process holds; those of a GPU's context are not counted there."""
    if device != "cpu":
        import torch

        return float(torch.cuda.memory_allocated())
    stated = re.search(r"VmRSS:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8")) if _STATUS.is_file() else None
    return float(stated[1]) * 1024 if stated else peak(device)


def _forget(device: str) -> None:
    """Begin to count the peak anew; where the system does not let it, the peak of loading is counted in."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif os.access(_CLEAR, os.W_OK):
        _CLEAR.write_text("5", encoding="ascii")


def _train(model: Any, setup: Setup, seed: int) -> None:
    """STEPS steps of one micro-batch of random rows, whose last tokens are trained."""
    import torch

    from planish import shelf
    from planish.data.tree import Sequence
    from planish.model.checkpoint import Position, State
    from planish.model.example import Example
    from planish.model.optimizer import optimizer_for
    from planish.model.plan import make_plan
    from planish.model.precision import scaler
    from planish.model.ranks import ALONE, Ranks
    from planish.model.step import Work, one_step

    settings: dict[str, Any] = {"learning_rate": 1e-6, "schedule": "constant", "weight_decay": 0.0, "clip": 1.0, "seed": seed, "micro_tokens": setup.tokens}
    spacing: dict[str, Any] = {"epochs": None, "max_steps": STEPS, "warmup": 0.0, "validations": 0, "checkpoints": 0}
    plan = make_plan(setup.micro, batch_size=setup.micro, precision=setup.precision, optimizer=setup.optimizer, **spacing, **settings)
    alone = ALONE if setup.device == "cpu" else Ranks(0, 1, device=setup.device)
    loss = shelf.call("objectives", "sft", "loss", {})
    state = State(model, optimizer_for(model, plan), scaler(plan.precision, setup.device), None, Position(0, 0))
    work = Work(plan, alone, alone.forward(model, plan.precision, loss))
    draw = torch.Generator().manual_seed(seed)
    weights = (*[0.0] * (setup.length - setup.scored), *[1.0] * setup.scored)
    ids = torch.randint(0, model.config.vocab_size, (setup.micro, setup.length), generator=draw).tolist()
    rows = [Example((Sequence(tuple(row), weights),), float(setup.scored)) for row in ids]
    for _ in range(STEPS):
        one_step(state, rows, work, plan.learning_rate)


if __name__ == "__main__":
    main()
