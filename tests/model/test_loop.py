"""The loop: normalisation, optimizers, averages, early stopping, and what a loss that is not finite does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.runs import adapted, example, examples, plan, run, weights

from planish.adapters import full, lora
from planish.errors import InputError, MissingExtra, RunFailed
from planish.model import checkpoint, curve, loop, precision, step
from planish.model.checkpoint import Position, State
from planish.model.ema import Average
from planish.model.example import Example, Loss
from planish.model.load import load
from planish.model.optimizer import optimizer_for, trainable
from planish.model.plan import Plan
from planish.model.policy import Scored
from planish.model.ranks import ALONE
from planish.objectives import sft


def one_step(model: torch.nn.Module, rows: list[Example], loss: Any, made: Plan, rate: float = 0.0, optimizer: Any = None) -> step.Done:
    state = State(model, optimizer or optimizer_for(model, made), precision.scaler("fp32"), None, Position(0, 0))
    return step.one_step(state, rows, step.Work(made, ALONE, ALONE.forward(model, made.precision, loss)), rate)


def test_t6_worked_number(tiny: Path) -> None:
    """MISSION T6: 10 tokens of mean loss 2.0 and 90 of 1.0 in two micro-batches: (20 + 90) / 100 = 1.10, not (2.0 + 1.0) / 2 = 1.50."""
    model = lora.attach(load(tiny, "fp32"))

    def loss(policy: Scored) -> Loss:
        return Loss((policy.weight * (2.0 if len(policy.weight) == 10 else 1.0)).sum() + 0 * policy.log_prob.sum())

    rows = [example(*range(3, 14), scored=10), example(*range(100, 191), scored=90)]
    value, *_ = one_step(model, rows, loss, plan(2, batch_size=2, epochs=1, micro_tokens=20))
    assert value == pytest.approx(1.10)


@pytest.mark.parametrize("rows", [8, 24])
def test_t6_accumulation_changes_nothing(tiny: Path, rows: int) -> None:
    """MISSION T6, proof: one micro-batch of everything against one row each (accumulation 1 and 8): gradients equal to 1e-6 relative, in fp64 weights (transformers'
    norms stay fp32)."""
    grads = []
    for micro_tokens in (10_000, 1):
        model = adapted(tiny).double()
        kept: list[torch.Tensor] = []
        made = plan(rows, micro_tokens=micro_tokens)
        optimizer = optimizer_for(model, made)
        optimizer.step = lambda model=model, kept=kept: kept.extend(p.grad.clone() for p in trainable(model).values())  # type: ignore[method-assign,misc]
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        one_step(model, examples(rows), sft.loss, made, optimizer=optimizer)
        grads.append(torch.cat([g.flatten() for g in kept]))
    assert (grads[0] - grads[1]).norm() <= 1e-6 * grads[0].norm()


def test_t6_worked_number_of_ranks() -> None:
    """MISSION T6: 4 rows a micro-batch x 8 micro-batches x 1 rank = 32. MISSION X6: target 32 on 1 rank is 8 micro-batches of 4, on 2 ranks each has 16 rows, 4 of 4."""
    from planish.model.ranks import Ranks

    rows = [example(*range(3 + 11 * n, 14 + 11 * n), scored=2) for n in range(32)]  # 10 input tokens each, nothing shared
    one = step.micro_batches(rows, 40, ALONE)
    two = [step.micro_batches(rows, 40, Ranks(rank, 2)) for rank in (0, 1)]
    assert [tree.tokens_in for tree, _ in one] == [40] * 8
    assert [[tree.tokens_in for tree, _ in own] for own in two] == [[40] * 4] * 2


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
    settings = plan(8, max_steps=60, learning_rate=2e-4, micro_tokens=2048, validations=0, checkpoints=0)
    loop.train(model, [sft.encode(row, chat) for row in rows], sft.loss, settings, tmp_path, meaning={}, on_step=seen.append)
    assert seen[-1].loss < 0.05 < seen[0].loss


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_t1_every_trainable_tensor_changes_and_the_base_does_not(tiny: Path, tmp_path: Path, optimizer: Any) -> None:
    """MISSION T1: 60 steps on 8 rows also bring the loss of the random model from ln 512 = 6.2 and above to under a tenth of it."""
    model = lora.attach(load(tiny, "fp32"), r=8)
    base = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    start = weights(model)
    seen: list[loop.Step] = []
    made = plan(8, max_steps=60, optimizer=optimizer, checkpoints=0)
    loop.train(model, examples(8), sft.loss, made, tmp_path, meaning={}, on_step=seen.append)
    assert seen[-1].loss < 0.1 * seen[0].loss
    assert all(not torch.equal(p, start[name]) for name, p in trainable(model).items())
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if not p.requires_grad)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "tokens", "loss", "grad_norm", "learning_rate", "tok_s", "memory_mb", "validation_loss"} <= lines[0].keys()


def test_t1_norms_and_biases_are_not_decayed(tiny: Path) -> None:
    model = full.attach(load(tiny, "fp32"))
    decayed, plain = optimizer_for(model, plan()).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"], decayed["betas"], decayed["eps"]) == (0.01, 0.0, (0.9, 0.999), 1e-8)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)].rpartition(".")[0].rpartition(".")[2] for parameter in plain["params"]} == {
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
    }


def test_eight_bit_moments_are_close_to_full_ones(tiny: Path) -> None:
    """Tensors of 4,096 values or more hold their moments in a byte each. Ten full fine-tuning steps end within a fifth of the way that fp32 moments went."""
    ends = {}
    for optimizer in ("adamw", "adamw_8bit"):
        model = full.attach(load(tiny, "fp32"))
        start = weights(model)
        made = plan(learning_rate=1e-3, optimizer=optimizer)
        held = optimizer_for(model, made)
        for _ in range(10):
            one_step(model, examples()[:8], sft.loss, made, 1e-3, held)
        if optimizer == "adamw_8bit":
            large = [parameter for parameter in trainable(model).values() if parameter.numel() >= 4096]
            assert large
            assert all(held.state[parameter]["state1"].dtype is torch.uint8 for parameter in large)
        ends[optimizer] = torch.cat([(parameter.detach() - start[name]).flatten() for name, parameter in trainable(model).items()])
    assert (ends["adamw"] - ends["adamw_8bit"]).norm() < 0.2 * ends["adamw"].norm()


def test_a_missing_bitsandbytes_names_its_install_command(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tiny)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingExtra, match=r"planish\[4bit\]"):
        optimizer_for(model, plan(optimizer="adamw_8bit"))


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(InputError, match="range overflows") as refused:
        precision.for_training("fp16")
    assert refused.value.problems[0].where == "train.precision"
    assert precision.for_training("fp16", "cuda") == "fp16"


def test_a_loss_scale_changes_no_gradient_and_waits_out_overflow(tiny: Path) -> None:
    """The scale that fp16 needs, on a CPU in fp32: a power of two, so the step is the unscaled one to the bit. Where the scaled gradient overflows, the step is left out,
    the scale halved, and the step is not counted as one without a finite loss."""
    ends = []
    for scaler in (torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        model = adapted(tiny)
        made = plan()
        state = State(model, optimizer_for(model, made), scaler, None, Position(0, 0))
        torch.manual_seed(0)
        step.one_step(state, examples(8), step.Work(made, ALONE, ALONE.forward(model, "fp32", sft.loss)), 1e-2)
        ends.append(weights(model))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    model = adapted(tiny)
    before = weights(model)
    made, scaler = plan(8, max_steps=4), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    state = State(model, optimizer_for(model, made), scaler, None, Position(0, 0))
    work = step.Work(made, ALONE, ALONE.forward(model, "fp32", lambda policy: Loss(sft.loss(policy).total * 1000)))
    for done in range(4):
        line, _ = loop._advance(state, work, examples(8), (), ())
        assert line.skipped
        assert scaler.get_scale() == 2.0 ** (126 - done)
    assert state.position.bad == ()
    assert all(torch.equal(p, before[name]) for name, p in trainable(model).items())


def test_an_average_is_what_its_formula_says(tiny: Path, tmp_path: Path) -> None:
    """a_t = d a_(t-1) + (1 - d) w_t from a_0 = w_0, delivered at the end: against the weights after each step, gathered from a run without it."""
    history = [weights(adapted(tiny))]
    model = adapted(tiny)
    loop.train(model, examples(), sft.loss, plan(), tmp_path / "plain", meaning={}, on_step=lambda _: history.append(weights(model)))
    wanted = history[0]
    for now in history[1:]:
        wanted = {name: 0.9 * wanted[name] + 0.1 * now[name] for name in wanted}
    averaged = run(tiny, tmp_path / "averaged", plan(ema=0.9), validation=())
    for name, got in weights(averaged).items():
        torch.testing.assert_close(got, wanted[name], rtol=1e-5, atol=1e-7)


def test_an_average_in_place_is_taken_out_again(tiny: Path) -> None:
    model = adapted(tiny)
    average = Average(model, 0.5)
    average.tensors = {name: torch.zeros_like(tensor) for name, tensor in average.tensors.items()}
    before = weights(model)
    with average.in_place(model):
        assert all(not parameter.any() for parameter in trainable(model).values())
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainable(model).items())


def checks(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validation gives these values in turn."""
    left = iter(values)
    monkeypatch.setattr(loop, "_validated", lambda *_: (next(left), {}))


def test_t5_patience_stops_and_the_best_weights_are_delivered(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION T5: validations 3, 1, 2, 2, 2 with patience 3 stop at the fifth of twelve; the weights of the second are left. The best and the last two checkpoints stay."""
    checks(monkeypatch, [3.0, 1.0, 2.0, 2.0, 2.0])
    after: dict[int, dict[str, torch.Tensor]] = {}
    seen: list[curve.Step] = []
    model = adapted(tiny)

    def on_step(line: curve.Step) -> None:
        seen.append(line)
        after[line.step] = weights(model)

    made = plan(max_steps=12, validations=12, checkpoints=12, patience=3, keep="best")
    position = loop.train(model, examples(), sft.loss, made, tmp_path, meaning={}, validation=examples(4), on_step=on_step)
    assert (position.step, position.best, position.best_step, position.stopped) == (5, 1.0, 2, True)
    assert [line.validation_loss for line in seen] == [3.0, 1.0, 2.0, 2.0, 2.0]
    assert all(torch.equal(parameter, after[2][name]) for name, parameter in trainable(model).items())
    assert [checkpoint.step_of(path) for path in sorted(tmp_path.glob("step-*"))] == [2, 4, 5]
    again = adapted(tiny)  # a run that has stopped stays stopped, and delivers the same
    assert loop.train(again, examples(), sft.loss, made, tmp_path, meaning={}, validation=examples(4)) == position
    assert all(torch.equal(parameter, after[2][name]) for name, parameter in trainable(again).items())


def test_the_best_is_kept_without_regular_checkpoints_and_the_last_on_request(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for keep, wanted in (("best", 1), ("last", 3)):
        checks(monkeypatch, [1.0, 2.0, 3.0])
        after: dict[int, dict[str, torch.Tensor]] = {}
        model = adapted(tiny)
        made = plan(max_steps=3, validations=3, checkpoints=0, keep=keep)
        loop.train(
            model,
            examples(),
            sft.loss,
            made,
            tmp_path / keep,
            meaning={},
            validation=examples(4),
            on_step=lambda line, model=model, after=after: after.update({line.step: weights(model)}),  # type: ignore[misc]
        )
        assert all(torch.equal(parameter, after[wanted][name]) for name, parameter in trainable(model).items())
        assert len(list((tmp_path / keep).glob("step-*"))) == (1 if keep == "best" else 0)


def test_t1_three_steps_without_a_finite_loss_stop_the_run(tiny: Path, tmp_path: Path) -> None:
    """MISSION T1: skipped, and at the third in a row stopped with the ids of the rows; no weight has moved."""
    model = adapted(tiny)
    start = weights(model)
    seen: list[curve.Step] = []

    def never(policy: Scored) -> Loss:
        return Loss(policy.log_prob.sum() * float("nan"))

    names = [f"row-{n}" for n in range(24)]
    with pytest.raises(RunFailed, match="three steps in a row") as failed:
        loop.train(model, examples(), never, plan(), tmp_path, meaning={}, names=names, on_step=seen.append)
    assert failed.value.reason_code == "loss_not_finite"
    assert all(name in str(failed.value).replace(",", " ").replace(";", " ").split() for name in names)  # three batches of eight are all 24 rows
    assert all(line.skipped for line in seen)
    assert all(torch.equal(p, start[name]) for name, p in trainable(model).items())


def test_t1_two_bad_steps_are_passed_over(tiny: Path, tmp_path: Path) -> None:
    calls = iter(range(1000))

    def sometimes(policy: Scored) -> Loss:
        return Loss(-policy.log_prob.sum() * (float("inf") if next(calls) in (0, 1) else 1.0))

    seen: list[curve.Step] = []
    position = loop.train(adapted(tiny), examples(), sometimes, plan(micro_tokens=10_000), tmp_path, meaning={}, on_step=seen.append)
    assert [line.skipped for line in seen] == [True, True, False, False, False, False]
    assert position.bad == ()


def test_a_model_that_trains_nothing_is_refused_before_the_first_step(tiny: Path, tmp_path: Path) -> None:
    model = adapted(tiny)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="trains no parameter"):
        loop.train(model, examples(), sft.loss, plan(), tmp_path / "work", meaning={})
    assert not list((tmp_path / "work").glob("step-*"))


def test_figures_are_recorded_at_a_bounded_rate() -> None:
    """300 steps in 12 seconds are three records, two by time and one at the end; a record holds 50 points and says of how many, and no validation is left out."""
    time = iter(n * 0.04 for n in range(2000))
    bodies: list[dict[str, Any]] = []
    batches = curve.Batches(bodies.append, lambda: next(time))
    for at in range(1, 301):
        batches.add(curve.Step(at, 0, 0, 1.0, 1.0, 1e-4, 1.0, 1.0, 0.5 if at == 2 else None))
    batches.close()
    assert (bodies[0]["first"], bodies[-1]["last"]) == (1, 300)
    assert sum(body["of"] for body in bodies) == 300
    assert len(bodies) == 3
    assert all(len(body["points"]) <= 51 for body in bodies)
    assert any(point["validation_loss"] == 0.5 for point in bodies[0]["points"])
