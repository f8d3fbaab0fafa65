"""The training loop. One for every objective and every adapter: it knows examples, a summed loss and trainable tensors, and no technique by name (MISSION T1).

The loss of a step is the sum over its scored tokens divided by their number over the whole effective batch, so that accumulation changes nothing (T6). Rows are drawn
from one seeded permutation per epoch; which rows a step holds follows from its number alone, so a resumed run repeats none and loses none (T10).
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from planish.data.tree import pack
from planish.errors import Problem, RunFailed
from planish.model import checkpoint
from planish.model.checkpoint import Position
from planish.model.example import Example, Loss
from planish.model.policy import Scored, score
from planish.model.schedule import learning_rate, warmup_steps

LossFunction = Callable[[Scored], Loss]


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run computes; written before it starts, stored in each checkpoint."""

    steps: int
    rows: int
    batch_size: int
    micro_tokens: int
    learning_rate: float
    warmup: int
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: float
    clip: float
    precision: Literal["fp32", "bf16"]
    seed: int
    validate_every: int
    checkpoint_every: int

    @property
    def steps_per_epoch(self) -> int:
        """ceil(rows / batch): the last batch of an epoch may be smaller (MISSION T5)."""
        return math.ceil(self.rows / self.batch_size)


@dataclass(frozen=True)
class Step:
    """What one step reports. `loss` is the mean over trained tokens; `tokens` is cumulative and counts what the model computed, `tokens_in` what it stood for."""

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


def steps_for(rows: int, batch_size: int, epochs: float | None, max_steps: int | None) -> int:
    """Steps of a run: max_steps, or epochs (default 1) times ceil(rows / batch)."""
    return max_steps if max_steps is not None else max(1, round((1.0 if epochs is None else epochs) * math.ceil(rows / batch_size)))


def make_plan(
    rows: int, *, batch_size: int, epochs: float | None, max_steps: int | None, warmup: float, validations: int, checkpoints: int, **rest: Any
) -> Plan:
    """The plan of a run over `rows` rows; shares become steps."""
    steps = steps_for(rows, batch_size, epochs, max_steps)
    every = {"validate_every": validations, "checkpoint_every": checkpoints}
    spacing: dict[str, Any] = {name: math.ceil(steps / times) if times else 0 for name, times in every.items()}
    return Plan(steps=steps, rows=rows, batch_size=batch_size, warmup=warmup_steps(warmup, steps), **spacing, **rest)


def batch_rows(plan: Plan, step: int) -> list[int]:
    """The rows of a step, from the seeded permutation of its epoch."""
    epoch, at = divmod(step, plan.steps_per_epoch)
    order = np.random.default_rng((plan.seed, epoch)).permutation(plan.rows)
    return [int(row) for row in order[at * plan.batch_size : (at + 1) * plan.batch_size]]


def mean_loss(model: nn.Module, examples: Seq[Example], loss: LossFunction, plan: Plan, device: str = "cpu") -> float:
    """The loss over `examples`, divided by their shares, without gradients."""
    total = 0.0
    model.eval()
    with torch.inference_mode():
        for _, tree in pack([example.sequences for example in examples], 2 * plan.micro_tokens):
            total += loss(score(model, tree, plan.precision, device)).total.item()
    return total / sum(example.share for example in examples)


def optimizer_for(model: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """AdamW; norms and biases (tensors of one dimension) are not decayed."""
    parameters = list(checkpoint.trainable(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=plan.learning_rate, betas=(0.9, 0.999), eps=1e-8)


def train(
    model: nn.Module,
    examples: Seq[Example],
    loss: LossFunction,
    plan: Plan,
    folder: Path,
    *,
    meaning: dict[str, Any],
    validation: Seq[Example] = (),
    on_start: Callable[[Position], None] = lambda _: None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_checkpoint: Callable[[Path, Position], None] = lambda *_: None,
    device: str = "cpu",
) -> Position:
    """Run the plan, from the newest checkpoint in `folder` if it is this run's. Figures go to `folder/metrics.jsonl`, one line a step.

    Raises RunFailed loss_not_finite after three steps in a row whose loss or gradient is not finite; such a step changes no weight.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meaning = meaning | {"plan": asdict(plan)}
    optimizer = optimizer_for(model, plan)
    torch.manual_seed(plan.seed)
    position = _resume(model, optimizer, folder, meaning) or Position(0, 0)
    figures = folder / "metrics.jsonl"
    _keep_lines(figures, position.step)
    on_start(position)
    bad = 0
    with figures.open("a", encoding="utf-8") as out:
        for step in range(position.step, plan.steps):
            began = time.perf_counter()
            rate = learning_rate(step, peak=plan.learning_rate, warmup=plan.warmup, steps=plan.steps, schedule=plan.schedule)
            rows = batch_rows(plan, step)
            value, norm, tokens, tokens_in = _one_step(model, [examples[row] for row in rows], loss, plan, optimizer, rate, device)
            finite = math.isfinite(value) and math.isfinite(norm)
            bad = 0 if finite else bad + 1
            if bad == 3:
                why = f"the loss was not finite three steps in a row; the last batch held rows {rows}"
                raise RunFailed(Problem(f"train step {step}", why, "lower learning_rate, or look at these rows"), reason_code="loss_not_finite")
            seconds = time.perf_counter() - began
            position = Position(step + 1, position.tokens + tokens, position.best, position.best_step)
            check = None
            if validation and plan.validate_every and ((step + 1) % plan.validate_every == 0 or step + 1 == plan.steps):
                check = mean_loss(model, validation, loss, plan, device)
                if position.best is None or check < position.best:
                    position = Position(step + 1, position.tokens, check, step + 1)
            line = Step(step + 1, position.tokens, tokens_in, value, norm, rate, tokens / seconds, _memory_mb(), check, not finite)
            out.write(json.dumps(asdict(line)) + "\n")
            out.flush()
            on_step(line)
            if plan.checkpoint_every and ((step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps):
                on_checkpoint(checkpoint.save(folder, model, optimizer, position, meaning), position)
    model.eval()
    return position


def _one_step(
    model: nn.Module, examples: Seq[Example], loss: LossFunction, plan: Plan, optimizer: torch.optim.Optimizer, rate: float, device: str
) -> tuple[float, float, int, int]:
    """Forward, backward, clip, step. Gives loss, gradient norm, unique tokens computed, and tokens stood for."""
    model.train()
    share = sum(example.share for example in examples)
    total, tokens, tokens_in = 0.0, 0, 0
    for _, tree in pack([example.sequences for example in examples], plan.micro_tokens):
        part = loss(score(model, tree, plan.precision, device)).total / share
        part.backward()
        total += part.item()
        tokens, tokens_in = tokens + len(tree.ids), tokens_in + tree.tokens_in
    norm = torch.nn.utils.clip_grad_norm_(checkpoint.trainable(model).values(), plan.clip).item()
    if math.isfinite(total) and math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm, tokens, tokens_in


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, meaning: dict[str, Any]) -> Position | None:
    newest = checkpoint.newest(folder)
    return checkpoint.load(newest, model, optimizer, meaning) if newest is not None else None


def _keep_lines(figures: Path, steps: int) -> None:
    """Drop the figures of steps that will be run again, and a line torn by a kill."""
    lines = figures.read_text(encoding="utf-8").splitlines() if figures.is_file() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= steps]
    figures.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _memory_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
