"""The training loop. One for every objective and every adapter: it knows examples, a summed loss and trainable tensors, and no technique by name (MISSION T1).

The loss of a step is the sum over its scored tokens divided by their number over the whole effective batch, so that accumulation and ranks change nothing (T6). Rows are
drawn from one seeded permutation per epoch; which rows a step holds follows from its number alone, so a resumed run repeats none and loses none (T10).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from collections.abc import Sequence as Seq
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from planish.data.batches import prefix_classes
from planish.errors import InputError, Problem, RunFailed
from planish.model import checkpoint, curve, precision
from planish.model.checkpoint import Position, State
from planish.model.curve import Step as Step
from planish.model.ema import Average
from planish.model.example import Example
from planish.model.optimizer import optimizer_for as optimizer_for
from planish.model.optimizer import trainable
from planish.model.plan import Plan as Plan
from planish.model.plan import batch_rows as batch_rows
from planish.model.plan import make_plan as make_plan
from planish.model.plan import named
from planish.model.ranks import ALONE, Ranks, refusals
from planish.model.rollout import Rolled, Rollout
from planish.model.schedule import learning_rate
from planish.model.step import LossFunction as LossFunction
from planish.model.step import Work, one_step
from planish.model.step import validation as validate
from planish.model.trunk import Trunk

PATIENCE_WITH_BAD_STEPS = 3
"""So many steps in a row without a finite loss end the run."""


def _ignore(*_: Any) -> None:
    """What a caller that does not listen hears."""


def train(
    model: nn.Module,
    examples: Seq[Example],
    loss: LossFunction,
    plan: Plan,
    folder: Path,
    *,
    meaning: dict[str, Any],
    validation: Seq[Example] = (),
    on_start: Callable[[Position], None] = _ignore,
    on_step: Callable[[Step], None] = _ignore,
    on_checkpoint: Callable[[Path, Position], None] = _ignore,
    on_warning: Callable[[str], None] = _ignore,
    device: str = "cpu",
    names: Seq[str] = (),
    ranks: Ranks = ALONE,
    trunk: Trunk | None = None,
    rollout: Rollout | None = None,
    may_differ: Collection[str] = (),
) -> Position:
    """Run the plan, from the newest sound checkpoint in `folder`. Figures go to `folder/metrics.jsonl`, one line a step. The model is left with the last weights, or
    with the best by validation where the plan keeps those; with an average, it is the average that is validated and left.

    `names` are the examples' row ids, for what is said about them. `trunk` keeps the outputs of frozen lower layers; a resumed run then equals an uninterrupted one to
    rounding, as what is read and what is computed anew may differ by it. `rollout` may put rows that the model writes now in the place of a step's own; what it does follows
    from the step's number, so that a resumed run repeats it. Only the first rank calls back. `may_differ` are keys of the meaning in which the checkpoint may be another
    (`checkpoint.load`). Raises InputError when the checkpoint is another run's, and RunFailed
    loss_not_finite after three steps in a row whose loss or gradient is not finite; such a step changes no weight.
    """
    if refused := refusals(ranks, batch_size=plan.batch_size, optimizer=plan.optimizer, precision=plan.precision):
        raise InputError(*refused)
    if not trainable(model):
        raise InputError(Problem("train.adapter", "trains no parameter of this model", "choose another adapter, or other targets or layers of it"))
    folder.mkdir(parents=True, exist_ok=True)
    ranks = ranks if ranks.world > 1 else replace(ranks, device=device)
    meaning = meaning | {"plan": asdict(plan)}
    classes = prefix_classes([example.sequences[0] for example in examples]) if plan.order == "shared" else None
    work = Work(plan, ranks, ranks.forward(model, plan.precision, loss, trunk), classes, rollout)
    torch.manual_seed(plan.seed + ranks.rank)
    average = Average(model, plan.ema) if plan.ema is not None else None
    state = State(model, optimizer_for(model, plan), precision.scaler(plan.precision, ranks.device), average, Position(0, 0))
    if ranks.first:
        checkpoint.sweep(folder)
    newest = checkpoint.newest(folder, lambda aside: on_warning(f"a damaged checkpoint was set aside as {aside.name}; going on from the one before"), ranks)
    if newest is not None:
        checkpoint.load(newest, state, meaning, ranks, may_differ=may_differ)
    figures = curve.Figures(folder / "metrics.jsonl", state.position.step) if ranks.first else None
    say = (on_start, on_step, on_checkpoint) if ranks.first else (_ignore, _ignore, _ignore)
    say[0](state.position)
    try:
        while state.position.step < plan.steps and not state.position.stopped:
            line, better = _advance(state, work, examples, validation, names)
            if figures is not None:
                figures.add(line)
            say[1](line)
            if _due(plan, state.position) or (better and plan.keep == "best"):
                if figures is not None:
                    figures.sync()
                say[2](checkpoint.save(folder, state, meaning, ranks), state.position)
    finally:
        if figures is not None:
            figures.close()
    _deliver(state, folder, plan, on_warning)
    model.eval()
    return state.position


def mean_loss(model: nn.Module, examples: Seq[Example], loss: LossFunction, plan: Plan, device: str = "cpu") -> float:
    """The loss over `examples`, divided by their shares, without gradients."""
    alone = replace(ALONE, device=device)
    return validate(model, examples, Work(plan, alone, alone.forward(model, plan.precision, loss)))[0]


def _due(plan: Plan, position: Position) -> bool:
    """Whether a checkpoint is written here by plan, or because the run ends."""
    return bool(plan.checkpoint_every) and (position.step % plan.checkpoint_every == 0 or position.step == plan.steps or position.stopped)


def _advance(state: State, work: Work, examples: Seq[Example], validation: Seq[Example], names: Seq[str]) -> tuple[Step, bool]:
    """One step and, where it is due, one validation. Gives its figures, and whether its weights are the best so far."""
    plan, position = work.plan, state.position
    began = time.perf_counter()
    rate = learning_rate(position.step, peak=plan.learning_rate, warmup=plan.warmup, steps=plan.steps, schedule=plan.schedule)
    rows = batch_rows(plan, position.step, work.classes)
    rolled = Rolled([examples[row] for row in rows], {}) if work.rollout is None else work.rollout([examples[row] for row in rows], position.step)
    value, norm, tokens, tokens_in, metrics = one_step(state, rolled.examples, work, rate)
    seconds = time.perf_counter() - began
    finite = _counts_as_finite(value, norm, state)
    position = replace(position, step=position.step + 1, tokens=position.tokens + tokens, bad=() if finite else (*position.bad, tuple(rows)))
    if len(position.bad) == PATIENCE_WITH_BAD_STEPS:
        held = "; ".join(", ".join(named(batch, names)) for batch in position.bad)
        why = f"the loss was not finite three steps in a row; their batches held rows {held}"
        raise RunFailed(Problem(f"train step {position.step}", why, "lower learning_rate, or look at these rows"), reason_code="loss_not_finite")
    check, checked, better = None, dict[str, float](), False
    if validation and plan.validate_every and (position.step % plan.validate_every == 0 or position.step == plan.steps):
        check, checked = _validated(state, validation, work)
        better = position.best is None or check < position.best
        position = (
            replace(position, best=check, best_step=position.step, waited=0)
            if better
            else replace(position, waited=position.waited + 1, stopped=plan.patience is not None and position.waited + 1 >= plan.patience)
        )
    state.position = position
    moved = math.isfinite(value) and math.isfinite(norm)
    speed, memory = tokens / seconds, curve.memory_mb(work.ranks.device)
    line = Step(position.step, position.tokens, tokens_in, value, norm, rate, speed, memory, check, not moved, metrics | rolled.figures, checked)
    return line, better


def _counts_as_finite(value: float, norm: float, state: State) -> bool:
    """An infinite fp16 gradient only says that the loss scale was too high, while there is room to lower it."""
    return math.isfinite(value) and (math.isfinite(norm) or (state.scaler.is_enabled() and state.scaler.get_scale() > 1))


def _validated(state: State, validation: Seq[Example], work: Work) -> tuple[float, dict[str, float]]:
    """The validation loss and figures of what would be delivered now."""
    if state.average is None:
        return validate(state.model, validation, work)
    with state.average.in_place(state.model):
        return validate(state.model, validation, work)


def _deliver(state: State, folder: Path, plan: Plan, on_warning: Callable[[str], None]) -> None:
    """Leave in the model what the plan keeps."""
    best = state.position.best_step
    if plan.keep == "best" and best is not None and best != state.position.step:
        kept = folder / f"step-{best:08d}"
        if checkpoint.sound(kept):
            checkpoint.load_weights(kept, state.model)
            return
        on_warning(f"the best checkpoint, of step {best}, is damaged or gone: the last weights are kept instead")
    if state.average is not None:
        state.average.put(state.model)
