"""The head over scored rows against torch autograd on full logits, in fp64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planish.model.head_terms import Divergence, Entropy, LogProb, Teacher, Term
from planish.model.lm_head import Head
from planish.model.scored_head import blend, log_probs, measure, predictions

R, H, V, K = 11, 8, 50, 6
SHAPES: dict[str, dict[str, Any]] = {"plain": {}, "capped": {"softcap": 2.0}, "scaled": {"scale": 0.3}, "both": {"softcap": 1.5, "scale": 3.0}}


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, weight, bias, target in fp64."""
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((R, H), (V, H), (V,)))
    return hidden, weight, bias, torch.randint(0, V, (R,))


def sparse(logits: Tensor, temperature: float = 1.0, k: int = K) -> Teacher:
    log_probs, ids = (logits / temperature).log_softmax(1).topk(k)
    return Teacher(ids, log_probs, temperature)


def oracle(logits: Tensor, term: Term) -> Tensor:
    """The definition, on full logits."""
    if isinstance(term, LogProb):
        return -F.cross_entropy(logits, term.target, reduction="none")
    if isinstance(term, Entropy):
        return torch.distributions.Categorical(logits=logits).entropy()
    assert isinstance(term, Divergence)
    teacher = term.teacher
    p = (logits / teacher.temperature).softmax(1)
    p = p.gather(1, teacher.ids)
    q = teacher.log_probs.exp()
    if teacher.ids.size(1) < logits.size(1):
        p, q = (torch.cat([each, 1 - each.sum(1, keepdim=True)], 1) for each in (p, q))
    return F.kl_div(p.log(), q, reduction="none").sum(1) if term.direction == "forward" else F.kl_div(q.log(), p, reduction="none").sum(1)


def terms(target: Tensor) -> list[Term]:
    torch.manual_seed(1)
    teacher = sparse(torch.randn(R, V, dtype=torch.float64) * 2, 2.0)
    return [LogProb(target), Entropy(), Divergence(teacher), Divergence(teacher, "reverse")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("trained", ["frozen", "linear", "module"])
@pytest.mark.parametrize("chunk", [3, None])
def test_equals_full_logits(shape: str, biased: bool, trained: str, chunk: int | None) -> None:
    """Every term, alone and blended: values and gradients against autograd over all rows at once, with uneven weights as any objective may give."""
    hidden, weight, bias, target = drawn()
    linear = nn.Linear(H, V, bias=biased, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if biased:
            linear.bias.copy_(bias)
    linear.requires_grad_(trained != "frozen")
    head = Head(linear.weight, linear.bias if biased else None, **SHAPES[shape], module=linear if trained == "module" else None)
    hidden.requires_grad_()
    asked, scale = terms(target), torch.rand(4, R, dtype=torch.float64)
    leaves = [hidden, *(parameter for parameter in linear.parameters() if parameter.requires_grad)]

    ours = measure(hidden, head, asked, chunk=chunk)
    mine = torch.autograd.grad(sum((value * part).sum() for value, part in zip(ours, scale, strict=True)), leaves)
    full = [oracle(head.shape(linear(hidden)), term) for term in asked]
    wanted = torch.autograd.grad(sum((value * part).sum() for value, part in zip(full, scale, strict=True)), leaves)
    for got, right in zip([*ours, *mine], [*full, *wanted], strict=True):
        assert torch.allclose(got, right, rtol=1e-10, atol=1e-12)

    total, *parts = blend(hidden, head, asked, [0.5, -0.1, 2.0, 0.7], chunk=chunk)
    mine = torch.autograd.grad((total * scale[0]).sum(), leaves)
    full_total = sum(weight * oracle(head.shape(linear(hidden)), term) for weight, term in zip([0.5, -0.1, 2.0, 0.7], asked, strict=True))
    wanted = torch.autograd.grad((full_total * scale[0]).sum(), leaves)
    for got, right in zip([total, *parts, *mine], [full_total, *full, *wanted], strict=True):
        assert torch.allclose(got, right, rtol=1e-10, atol=1e-12)


def test_nothing_is_kept_without_a_gradient() -> None:
    hidden, weight, _, target = drawn()
    with torch.no_grad():
        values = measure(hidden, weight, terms(target))
    assert not any(value.requires_grad for value in values)
    for value, term in zip(values, terms(target), strict=True):
        assert torch.allclose(value, oracle(hidden @ weight.t(), term))


def test_no_rows_give_no_values() -> None:
    hidden = torch.randn(0, H, requires_grad=True)
    value = log_probs(hidden, torch.randn(V, H), torch.empty(0, dtype=torch.long))
    assert value.shape == (0,)
    value.sum().backward()


def test_t2_worked_number() -> None:
    """MISSION T2: p = .5, .25, .125: the mean of ln 2, ln 4, ln 8 is ln 4 = 1.3863, perplexity 4.0; p = .01 gives -ln .01 = 4.605.

    Logits ln p of a softmax give these p exactly.
    """
    hidden = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.125, 0.375, 0.5], [0.01, 0.49, 0.5]]).log()
    nll = -log_probs(hidden, torch.eye(3), torch.zeros(4, dtype=torch.long))
    assert nll[:3].mean().item() == pytest.approx(math.log(4), rel=1e-6)
    assert math.exp(nll[:3].mean().item()) == pytest.approx(4.0, rel=1e-6)
    assert nll[3].item() == pytest.approx(4.605, abs=5e-4)


def test_s2_worked_number() -> None:
    """MISSION S2: teacher logits (4,2,0), student (2,2,0), T = 2.

    Teacher at T=2: softmax(2,1,0) = (.665,.245,.090). Student: softmax(1,1,0) = (.422,.422,.155).
    KL = .665 ln(.665/.422) + .245 ln(.245/.422) + .090 ln(.090/.155) = .3023 - .1337 - .0490 = .1196; reverse .1233; cross-entropy of label 0 at T=1:
    -ln softmax(2,2,0)_0 = .7586.
    """
    student, teacher = torch.tensor([[2.0, 2.0, 0.0]]), torch.tensor([[4.0, 2.0, 0.0]])
    captured = sparse(teacher, 2.0, k=3)
    forward, reverse, label = measure(student, torch.eye(3), [Divergence(captured), Divergence(captured, "reverse"), LogProb(torch.tensor([0]))])
    assert captured.log_probs.exp()[0].tolist() == pytest.approx([0.665, 0.245, 0.090], abs=5e-4)
    assert forward.item() == pytest.approx(0.1196, abs=5e-5)
    assert reverse.item() == pytest.approx(0.1233, abs=5e-5)
    assert -label.item() == pytest.approx(0.7586, abs=5e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_s2_student_equal_to_teacher(direction: Any, temperature: float) -> None:
    """MISSION S2: with the tail in one bucket value and gradient are zero where student = teacher; elsewhere the bucketed divergence is at most the full one."""
    hidden, weight, _, _ = drawn()
    hidden.requires_grad_()
    captured = sparse((hidden @ weight.t()).detach(), temperature)
    (value,) = measure(hidden, weight, [Divergence(captured, direction)])
    (gradient,) = torch.autograd.grad(value.sum(), hidden)
    assert value.abs().max() < 1e-10
    assert gradient.abs().max() < 1e-10
    other = hidden.detach().roll(1, 0)
    bucketed, full = (measure(other, weight, [Divergence(sparse(hidden.detach() @ weight.t(), temperature, k), direction)])[0] for k in (K, V))
    assert (bucketed <= full + 1e-12).all()
    assert captured.coverage().max() < 1


def test_predictions_are_the_argmax() -> None:
    torch.manual_seed(1)
    hidden, weight = torch.randn(9, 4), torch.randn(20, 4)
    assert predictions(hidden, weight, 2).tolist() == (hidden @ weight.t()).argmax(-1).tolist()
