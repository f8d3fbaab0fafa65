"""The loop: schedule, plan, normalisation, resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from planish.adapters import lora
from planish.data.tree import Sequence
from planish.errors import RunFailed
from planish.model import checkpoint, loop
from planish.model.example import Example, Loss
from planish.model.load import load
from planish.model.policy import Scored
from planish.model.schedule import learning_rate, warmup_steps
from planish.objectives import sft


def example(*ids: int, scored: int) -> Example:
    return Example((Sequence(ids, (*[0.0] * (len(ids) - scored), *[1.0] * scored)),), float(scored))


def examples(count: int = 24) -> list[Example]:
    draw = torch.Generator().manual_seed(0)
    return [example(*[5, 6, 7], *torch.randint(3, 500, (int(n),), generator=draw).tolist(), scored=2) for n in torch.randint(3, 9, (count,), generator=draw)]


def plan(rows: int = 24, **given: Any) -> loop.Plan:
    settings = dict(
        batch_size=8,
        epochs=2,
        max_steps=None,
        warmup=0.03,
        validations=2,
        checkpoints=3,
        micro_tokens=64,
        learning_rate=1e-2,
        schedule="cosine",
        weight_decay=0.01,
    )
    return loop.make_plan(rows, **{**settings, "clip": 1.0, "precision": "fp32", "seed": 42, **given})


def test_t3_worked_numbers() -> None:
    """MISSION T3: peak 2e-4, w=10, N=110: s=5 is half way up; s=60 is half way down the cosine (cos(pi/2) = 0); s=110 is 0; 3 % of 96 steps is 3."""
    at = {step: learning_rate(step, peak=2e-4, warmup=10, steps=110, schedule="cosine") for step in (5, 60, 110)}
    assert at == pytest.approx({5: 1e-4, 60: 1e-4, 110: 0.0})
    assert warmup_steps(0.03, 96) == 3
    with pytest.raises(ValueError, match="warm-up"):
        learning_rate(0, peak=1, warmup=5, steps=5, schedule="linear")


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_equal_transformers(schedule: Any) -> None:
    """Step by step against transformers' schedulers."""
    from transformers import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=7, num_training_steps=50)
    for step in range(50):
        assert learning_rate(step, peak=2e-4, warmup=7, steps=50, schedule=schedule) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_t5_worked_number() -> None:
    """MISSION T5: 1,000 rows in batches of 32 are 32 steps, the last with 8 rows; 3 epochs are 96 steps."""
    made = plan(1000, batch_size=32, epochs=3)
    assert (made.steps_per_epoch, made.steps, len(loop.batch_rows(made, 31))) == (32, 96, 8)


def test_an_epoch_holds_every_row_once() -> None:
    made = plan(50)
    for epoch in range(2):
        rows = [row for step in range(made.steps_per_epoch) for row in loop.batch_rows(made, epoch * made.steps_per_epoch + step)]
        assert sorted(rows) == list(range(50))


def test_t6_worked_number(tiny: Path) -> None:
    """MISSION T6: 10 tokens of mean loss 2.0 and 90 of 1.0 in two micro-batches: (20 + 90) / 100 = 1.10, not (2.0 + 1.0) / 2 = 1.50."""
    model = lora.attach(load(tiny, "fp32"))

    def loss(policy: Scored) -> Loss:
        return Loss((policy.weight * (2.0 if len(policy.weight) == 10 else 1.0)).sum() + 0 * policy.log_prob.sum())

    rows = [example(*range(3, 14), scored=10), example(*range(100, 191), scored=90)]
    made = plan(2, batch_size=2, epochs=1, micro_tokens=20)
    value, *_ = loop._one_step(model, rows, loss, made, loop.optimizer_for(model, made), 0.0, "cpu")
    assert value == pytest.approx(1.10)


def test_t6_accumulation_changes_nothing(tiny: Path) -> None:
    """One micro-batch of everything against one row each: the same gradient, 1e-6 relative in fp64 (transformers computes norms in fp32)."""
    grads = []
    for micro_tokens in (10_000, 1):
        model = lora.attach(load(tiny, "fp32")).double()
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        kept: list[torch.Tensor] = []
        made = plan(24, micro_tokens=micro_tokens)
        optimizer = loop.optimizer_for(model, made)
        optimizer.step = lambda model=model, kept=kept: kept.extend(p.grad.clone() for p in checkpoint.trainable(model).values())  # type: ignore[method-assign]
        loop._one_step(model, examples(), sft.loss, made, optimizer, 0.0, "cpu")
        grads.append(torch.cat([g.flatten() for g in kept]))
    assert (grads[0] - grads[1]).norm() <= 1e-6 * grads[0].norm()


@pytest.mark.slow
def test_t1_worked_number(tmp_path: Path) -> None:
    """MISSION T1: 8 rows, 60 steps, loss under .05, with the real 135M model and LoRA."""
    from planish.data.task import classification
    from planish.model.bundled import locate
    from planish.model.chat import Chat
    from planish.rows import ChatRow, Message, Origin

    folder = locate("smollm2-135m-instruct")
    chat, task = Chat.load(folder), classification(["negative", "neutral", "positive"])
    texts = ["it broke", "it is blue", "i love it", "awful sound", "the box has a lid", "great value", "never again", "works perfectly"]
    labels = ["negative", "neutral", "positive", "negative", "neutral", "positive", "negative", "positive"]
    rows = [
        ChatRow(id=text, origin=Origin(file="x", line=1, sha256=""), messages=(*task.prompt(text), Message(role="assistant", content=label)))
        for text, label in zip(texts, labels, strict=True)
    ]
    seen: list[loop.Step] = []
    model = lora.attach(load(folder, "fp32"))
    settings = plan(8, epochs=None, max_steps=60, learning_rate=2e-4, micro_tokens=2048, validations=0, checkpoints=0)
    loop.train(model, [sft.encode(row, chat) for row in rows], sft.loss, settings, tmp_path, meaning={}, on_step=seen.append)
    assert seen[-1].loss < 0.05 < seen[0].loss


def test_every_trainable_tensor_changes_and_the_base_does_not(tiny: Path, tmp_path: Path) -> None:
    """60 steps on 8 rows also bring the loss of the random model from ln 512 = 6.2 and above to under a tenth of it."""
    model = lora.attach(load(tiny, "fp32"), r=8)
    base = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    start = {name: p.clone() for name, p in checkpoint.trainable(model).items()}
    seen: list[loop.Step] = []
    rows = examples(8)
    loop.train(model, rows, sft.loss, plan(8, epochs=None, max_steps=60, learning_rate=1e-2), tmp_path, meaning={}, on_step=seen.append)
    assert seen[-1].loss < 0.1 * seen[0].loss
    assert all(not torch.equal(p, start[name]) for name, p in checkpoint.trainable(model).items())
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if not p.requires_grad)


class Killed(Exception):
    """Stands for kill -9: nothing after it runs."""


def trained(tiny: Path, folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    model = lora.attach(load(tiny, "fp32"), r=4)

    def on_step(step: loop.Step) -> None:
        if step.step == stop_at:
            raise Killed

    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    loop.train(model, examples(), sft.loss, plan(checkpoints=6), folder, meaning={"base": "x"}, validation=examples(4), on_step=on_step)
    return {name: p.detach().clone() for name, p in checkpoint.trainable(model).items()}


@pytest.mark.parametrize("stop_at", [1, 2, 4, 5, 6])
def test_t10_resume_is_bit_identical(tiny: Path, tmp_path: Path, stop_at: int) -> None:
    """Stopped anywhere and started again: the same weights to the bit, and one figure for every step."""
    whole = trained(tiny, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tiny, tmp_path / "cut", stop_at)
    resumed = trained(tiny, tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))


def test_t10_a_damaged_checkpoint_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    trained(tiny, tmp_path)
    last, before = sorted(tmp_path.glob("step-*"), reverse=True)
    (last / "weights.safetensors").write_bytes(b"torn")
    assert checkpoint.newest(tmp_path) == before
    shutil.rmtree(before)
    assert checkpoint.newest(tmp_path) is None


def test_t10_another_runs_checkpoint_is_not_taken(tiny: Path, tmp_path: Path) -> None:
    trained(tiny, tmp_path)
    model = lora.attach(load(tiny, "fp32"), r=4)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest, model, loop.optimizer_for(model, plan()), {"base": "other"}) is None


def test_three_steps_without_a_finite_loss_stop_the_run(tiny: Path, tmp_path: Path) -> None:
    model = lora.attach(load(tiny, "fp32"), r=4)
    start = {name: p.clone() for name, p in checkpoint.trainable(model).items()}
    with pytest.raises(RunFailed, match="three steps in a row") as failed:
        loop.train(model, examples(), lambda policy: Loss(policy.log_prob.sum() * float("nan")), plan(), tmp_path, meaning={})
    assert failed.value.reason_code == "loss_not_finite"
    assert all(torch.equal(p, start[name]) for name, p in checkpoint.trainable(model).items())
