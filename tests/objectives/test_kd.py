"""Distillation by hand: MISSION S1's and S2's numbers, TRL's divergence, and the defects that it does not have."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.objectives.captures import ABOUT, captured, policy

from planish.data.capture_packed import Packed
from planish.errors import InputError, RunFailed
from planish.objectives import kd

TEACHER = torch.tensor([[4.0, 2.0, 0.0]])
GRID = (1.0, 2.0, 3.5, 5.0, 10.0, 20.0)


@pytest.mark.parametrize(
    ("T", "want"), [(0.5, (0.982, 0.018, 0.000)), (1.0, (0.867, 0.117, 0.016)), (2.0, (0.665, 0.245, 0.090)), (4.0, (0.507, 0.307, 0.186))]
)
def test_s2_temperature_table(T: float, want: tuple[float, ...], tmp_path: Path) -> None:
    """S2, S1: softmax((4,2,0) / T), kept with k=2: the two tokens and the tail. At T=2: e^2, e^1, 1 over 11.107 = .665, .245, .090 (a renormalised pair would say .731, .269)."""
    folder = captured(tmp_path / "c", TEACHER, [0], ABOUT.model_copy(update={"temperatures": (T, 8.0), "k": 2}))
    said = Packed(Path(folder)).row(0).said[T]
    found = [*torch.tensor(said.log_probs).exp().tolist(), math.exp(said.tail[0])]
    assert said.ids.tolist() == [0, 1]
    assert found == pytest.approx(list(want), abs=6e-4)


def test_s2_worked_loss(tmp_path: Path) -> None:
    """S2: student (2,2,0), label 0, T=2. CE = ln(2 + e^-2) = .7586. KL of (.665,.245,.090) and softmax(1,1,0) = (.422,.422,.155):
    .665 ln(.665/.422) + .245 ln(.245/.422) + .090 ln(.090/.155) = .1196; reverse .1233; T^2 KL = .4785; .5 * .7586 + .5 * .4785 = .6186."""
    student = torch.tensor([[2.0, 2.0, 0.0]])
    folder = captured(tmp_path / "c", TEACHER, [0])
    found = kd.loss(policy(student, [0]), capture=folder)
    assert found.total.item() == pytest.approx(0.6186, abs=2e-4)
    assert found.metrics["ce"] == pytest.approx(0.7586, abs=5e-5)
    assert found.metrics["kd"] == pytest.approx(0.4785, abs=5e-4)
    assert found.metrics["coverage"] == 1
    reverse = kd.loss(policy(student, [0]), capture=folder, direction="reverse", ce_weight=0.0, kd_weight=1.0)
    assert reverse.total.item() == pytest.approx(4 * 0.1233, abs=6e-4)
    p = torch.softmax(student, 1)
    assert found.metrics["entropy"] == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
def test_over_the_whole_vocabulary_it_is_trls_divergence(direction: Any, tmp_path: Path) -> None:
    """S2: every token kept, loss and gradient equal TRL's generalised JSD (beta 0 forward, 1 reverse, .3 mixed) times T^2, on the log-probabilities that the capture holds."""
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    torch.manual_seed(0)
    teacher, target = torch.randn(5, 12) * 2, [3, 1, 4, 1, 5]
    folder = captured(tmp_path / "c", teacher, target)
    said = Packed(Path(folder)).row(0).said[2.0]
    held = torch.full((5, 12), -torch.inf, dtype=torch.float64)
    held.scatter_(1, torch.tensor(said.ids).view(5, 12), torch.tensor(said.log_probs).view(5, 12) * 2)
    ours = torch.randn(5, 12).requires_grad_()
    theirs = ours.detach().clone().double().requires_grad_()
    beta = {"forward": 0, "reverse": 1, "jsd": 0.3}[direction]
    want = gkd.GKDTrainer.generalized_jsd_loss(theirs, held, beta=beta, temperature=2.0, reduction="sum") * 4
    want.backward()
    found = kd.loss(policy(ours, target), capture=folder, direction=direction, mix=0.3, ce_weight=0.0, kd_weight=1.0)
    found.total.backward()
    assert found.total.item() == pytest.approx(want.item(), rel=1e-5)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm()


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("k", [1, 2, 7, 40])
@pytest.mark.parametrize("T", GRID)
def test_s2_no_gradient_where_the_student_is_the_teacher(T: float, k: int, direction: Any, tmp_path: Path) -> None:
    """S2: at every captured temperature from 1 to 20, with 1 token kept to all 40. The student's logits are those that the compact capture stands for: its kept probabilities,
    and the tail's shared out over the rest."""
    torch.manual_seed(k)
    folder = captured(tmp_path / "c", torch.randn(3, 40) * 3, [0, 1, 2], ABOUT.model_copy(update={"temperatures": GRID, "k": k}))
    said = Packed(Path(folder)).row(0).said[T]
    log_p = torch.tensor(said.tail, dtype=torch.float64)[:, None].expand(3, 40) - math.log(max(1, 40 - k))
    log_p = log_p.scatter(1, torch.tensor(said.ids).view(3, k), torch.tensor(said.log_probs).view(3, k))
    student = (log_p * T).float().requires_grad_()
    found = kd.loss(policy(student, [0, 1, 2]), capture=folder, direction=direction, temperature=T, ce_weight=0.0, kd_weight=1.0)
    found.total.backward()
    assert student.grad is not None
    assert student.grad.abs().max().item() < 2e-6 * T
    assert abs(found.total.item()) < 2e-6 * T**2


def test_a_certain_teacher_is_cross_entropy(tmp_path: Path) -> None:
    """S2: a teacher that gives the label all of it, at T=1: KL = 0 - ln p(label), the cross-entropy, with its gradient."""
    torch.manual_seed(0)
    target = [2, 0, 5]
    folder = captured(tmp_path / "c", torch.nn.functional.one_hot(torch.tensor(target), 8) * 200.0, target, ABOUT.model_copy(update={"k": 1}))
    logits = torch.randn(3, 8)
    grads = []
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        student = logits.clone().requires_grad_()
        found = kd.loss(policy(student, target), capture=folder, temperature=1.0, ce_weight=weights[0], kd_weight=weights[1])
        found.total.backward()
        grads.append((found.total.item(), student.grad))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    assert torch.allclose(grads[0][1], grads[1][1], atol=1e-6)


def test_hand_autograd(tmp_path: Path) -> None:
    """S2: the bucketed loss written out with plain softmax and autograd: 3 kept classes and their rest, at T=2, weight .5 each, over two tokens of weights 1 and .25."""
    torch.manual_seed(1)
    teacher, target = torch.randn(2, 9), [4, 8]
    folder = captured(tmp_path / "c", teacher, target, ABOUT.model_copy(update={"k": 3}))
    said = Packed(Path(folder)).row(0).said[2.0]
    ids, q = torch.tensor(said.ids).view(2, 3), torch.tensor(said.log_probs).view(2, 3).exp()
    tail = torch.tensor(said.tail).exp()
    logits = torch.randn(2, 9)
    hand = logits.double().requires_grad_()
    p = (hand / 2).softmax(1)
    kept = p.gather(1, ids)
    kl = (q * (q / kept).log()).sum(1) + tail * (tail / (1 - kept.sum(1))).log()
    ce = -hand.log_softmax(1).gather(1, torch.tensor(target)[:, None])[:, 0]
    (torch.tensor([1.0, 0.25]) * (0.5 * ce + 0.5 * 4 * kl)).sum().backward()
    student = logits.clone().requires_grad_()
    found = kd.loss(policy(student, target, weight=[1.0, 0.25]), capture=folder)
    found.total.backward()
    assert hand.grad is not None
    assert student.grad is not None
    assert (student.grad - hand.grad).norm() <= 1e-5 * hand.grad.norm()


def test_the_bucketed_divergence_is_at_most_the_whole_one(tmp_path: Path) -> None:
    """S2: putting classes together cannot raise a KL (log-sum inequality); with k of 40 it only grows towards the whole."""
    torch.manual_seed(2)
    teacher, student = torch.randn(1, 40) * 2, torch.randn(1, 40) * 2
    values = []
    for k in (1, 5, 20, 40):
        folder = captured(tmp_path / str(k), teacher, [0], ABOUT.model_copy(update={"k": k}))
        values.append(kd.loss(policy(student, [0]), capture=folder, temperature=1.0, ce_weight=0.0, kd_weight=1.0).total.item())
    assert all(one <= other + 5e-3 for one, other in pairwise(values))
    assert values[0] < values[-1]


def test_the_sampled_tail_is_right_on_average(tmp_path: Path) -> None:
    """S2: 3 of 40 tokens kept and 4 drawn from the rest, over 150 seeds: the mean KL at T=2 lies within 4 standard errors of the whole one, and so does its gradient."""
    torch.manual_seed(3)
    teacher, logits = torch.randn(1, 40) * 1.5, torch.randn(1, 40)
    about = ABOUT.model_copy(update={"k": 3, "tail_samples": 4})
    values, grads = [], []
    for seed in range(150):
        folder = captured(tmp_path / str(seed), teacher, [0], about, seed)
        student = logits.clone().requires_grad_()
        found = kd.loss(policy(student, [0]), capture=folder, tail="sampled", ce_weight=0.0, kd_weight=1.0)
        found.total.backward()
        assert student.grad is not None
        values.append(found.total.detach()), grads.append(student.grad[0])
    q, p = (teacher / 2).log_softmax(1), (logits / 2).log_softmax(1)
    whole = 4 * (q.exp() * (q - p)).sum()
    spread = torch.stack(values).std() / math.sqrt(150)
    assert abs(torch.stack(values).mean() - whole) < 4 * spread + 0.02
    slope = 4 * (p.exp() - q.exp())[0] / 2
    error = torch.stack(grads).mean(0) - slope
    assert (error.abs() <= 4.5 * torch.stack(grads).std(0) / math.sqrt(150) + 0.01).all()


def test_tokens_without_a_teacher_leave_the_second_term_only(tmp_path: Path) -> None:
    """The reference system filled such positions with -30 and pulled the student to noise. Here: a row that is not in the capture is trained by cross-entropy alone."""
    folder = captured(tmp_path / "c", TEACHER, [0])
    student = torch.tensor([[2.0, 2.0, 0.0]]).requires_grad_()
    found = kd.loss(policy(student, [0], place=kd.NONE), capture=folder)
    found.total.backward()
    assert found.metrics["kd"] == 0
    assert found.metrics["coverage"] == 0
    assert student.grad is not None
    assert torch.allclose(student.grad, 0.5 * (student.detach().softmax(1) - torch.tensor([[1.0, 0.0, 0.0]])), atol=1e-6)


def test_it_does_not_grow_with_length(tmp_path: Path) -> None:
    """The reference system's term grew with the answer (`batchmean` on three dimensions). Here ten times the same token cost ten times the sum, and the divisor is ten."""
    one = captured(tmp_path / "one", TEACHER, [0])
    ten = captured(tmp_path / "ten", TEACHER.expand(10, 3), [0] * 10)
    student = torch.tensor([[2.0, 2.0, 0.0]])
    mean = kd.loss(policy(student.expand(10, 3).contiguous(), [0] * 10), capture=ten).total.item() / 10
    assert mean == pytest.approx(kd.loss(policy(student, [0]), capture=one).total.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ce_weight": 0.0, "kd_weight": 0.0}, "both 0"),
        ({"temperature": 3.0}, "3 was not captured"),
        ({"temperature": 0.0}, "temperature: is 0\n  fix: give a number above 0, such as 2"),
        ({"temperature": math.nan}, "temperature: is nan"),
        ({"tail": "sampled"}, "no draws"),
        ({"tail": "sampled", "direction": "reverse"}, "forward divergence only"),
        ({"direction": "jsd", "mix": 1.0}, "mix"),
        ({"ce_weight": -1.0}, "ce_weight"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    """S1, S2: T=2 of a capture that knows T=1 only would need the renormalised pair (.731, .269), which is refused as exact."""
    folder = captured(tmp_path / "c", TEACHER, [0])
    with pytest.raises(InputError, match=why):
        kd.loss(policy(TEACHER, [0]), capture=folder, **options)


def test_s1_a_temperature_beside_the_capture_is_refused(tmp_path: Path) -> None:
    """S1: k=2 at T=1 alone: nothing says what the third token has at T=2 (.090); the pair renormalised (.731, .269) is not taken for it."""
    folder = captured(tmp_path / "c", TEACHER, [0], ABOUT.model_copy(update={"temperatures": (1.0,), "k": 2}))
    with pytest.raises(InputError, match="2 was not captured"):
        kd.loss(policy(TEACHER, [0]), capture=folder)


def test_alpha_is_refused_with_its_translation(tmp_path: Path) -> None:
    """S2: the letter has opposite meanings in the texts."""
    from planish.recipe import Recipe

    (tmp_path / "r.yaml").write_text("recipe: 1\nmodel: m\ndata: {path: x.jsonl}\ntrain: [{objective: {kd: {capture: c, alpha: 0.3}}}]\n", encoding="utf-8")
    with pytest.raises(InputError, match="kd_weight"):
        Recipe.load(tmp_path / "r.yaml")


def test_a_capture_that_was_exchanged_is_seen(tmp_path: Path) -> None:
    """Every step compares the captured tokens with those that are trained."""
    folder = captured(tmp_path / "c", TEACHER, [0])
    with pytest.raises(RunFailed, match="other tokens"):
        kd.loss(policy(TEACHER, [1]), capture=folder)
