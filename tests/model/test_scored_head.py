"""The head over scored rows against torch's own cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from planish.model.scored_head import log_probs, predictions


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("chunk", [3, 64])
def test_equals_full_logits(frozen: bool, chunk: int) -> None:
    """Values and gradients in fp64 against F.cross_entropy over all rows at once, with uneven weights as any objective may give."""
    torch.manual_seed(0)
    hidden = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, dtype=torch.float64, requires_grad=not frozen)
    target, scale = torch.randint(0, 50, (10,)), torch.rand(10, dtype=torch.float64)
    ours = log_probs(hidden, weight, target, chunk)
    (ours.double() * scale).sum().backward()
    mine = [hidden.grad.clone()] + ([] if frozen else [weight.grad.clone()])
    hidden.grad = weight.grad = None
    full = -F.cross_entropy(hidden @ weight.t(), target, reduction="none")
    (full * scale).sum().backward()
    assert torch.allclose(ours.double(), full, atol=1e-12)
    for got, wanted in zip(mine, [hidden.grad] + ([] if frozen else [weight.grad]), strict=True):
        assert (got - wanted).norm() <= 1e-12 * wanted.norm()


def test_t2_worked_number() -> None:
    """MISSION T2: p = .5, .25, .125: the mean of ln 2, ln 4, ln 8 is ln 4 = 1.3863, perplexity 4.0. Logits ln p of a 3-way softmax give these p exactly."""
    weight = torch.eye(3)
    hidden = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.125, 0.375, 0.5]]).log()
    loss = -log_probs(hidden, weight, torch.zeros(3, dtype=torch.long)).mean()
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)
    assert math.exp(loss.item()) == pytest.approx(4.0, rel=1e-6)


def test_predictions_are_the_argmax() -> None:
    torch.manual_seed(1)
    hidden, weight = torch.randn(9, 4), torch.randn(20, 4)
    assert predictions(hidden, weight, 2).tolist() == (hidden @ weight.t()).argmax(-1).tolist()
