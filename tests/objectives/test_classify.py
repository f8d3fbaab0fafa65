"""Heads of classes and of one value: worked losses, torch's own gradient, and scikit-learn's fit as the minimum that the objectives have (MISSION A11)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.objectives.answers import scored
from torch import Tensor, nn

from planish.adapters import head
from planish.data.tree import build
from planish.errors import InputError
from planish.model import class_head
from planish.model.backbone import base_of
from planish.model.chat import Chat, Refused
from planish.model.lm_head import Head
from planish.model.load import load
from planish.model.policy import Rows, Scored
from planish.objectives import classify, regress
from planish.rows import ChatRow, Message, Origin

LABELS = ["a", "b", "c"]


def row(text: str, label: str) -> ChatRow:
    return ChatRow(id=text, origin=Origin(file="f", line=1, sha256=""), messages=(Message(role="user", content=text), Message(role="assistant", content=label)))


def states(features: Tensor, given: Tensor, module: nn.Module) -> Scored:
    """Rows of one token each: what the objective reads is the features themselves."""
    at = torch.arange(len(features))
    return Scored(None, torch.ones(len(at)), at, len(at), Rows(features, Head(torch.zeros(2, features.size(1))), at, "fp32", module), given[:, None])


def test_a11_worked_losses() -> None:
    """Logits 2, 1, 0 for the first class: -ln(e^2 / (e^2 + e + 1)) = -ln .6652 = .4076; a head of zeros ln 3 = 1.0986. Value 2 for 5: 3^2 / 2 = 4.5."""
    module = class_head.ClassHead(3, 3, "last")
    assert classify.loss(states(torch.ones(1, 3), torch.zeros(1), module)).total.item() == pytest.approx(math.log(3), abs=1e-6)
    with torch.no_grad():
        module.linear.bias.copy_(torch.tensor([2.0, 1.0, 0.0]))
    found = classify.loss(states(torch.ones(1, 3), torch.zeros(1), module))
    assert found.total.item() == pytest.approx(0.4076, abs=5e-5)
    assert found.metrics == {"accuracy": 1.0}
    value = class_head.ClassHead(3, 1, "last")
    with torch.no_grad():
        value.linear.bias.fill_(2.0)
    assert regress.loss(states(torch.ones(1, 3), torch.tensor([5.0]), value)).total.item() == 4.5


def test_a11_chance() -> None:
    """Shares 1/2, 1/4, 1/4: an entropy of .5 ln 2 + .5 ln 4 = 1.0397 nats. Values 1, 2, 3: half their variance, 1/3."""
    rows = [class_head.read_whole([5, 6], (place,)) for place in (0.0, 0.0, 1.0, 2.0)]
    examples = [classify.Example((each,), 1.0) for each in rows]
    assert classify.chance(examples, 512) == pytest.approx(1.0397, abs=1e-4)
    assert regress.chance([classify.Example((class_head.read_whole([5], (value,)),), 1.0) for value in (1.0, 2.0, 3.0)], 512) == pytest.approx(1 / 3)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a11_loss_and_gradient_are_the_plain_ones(tiny: Path, pooling: Any) -> None:
    """On the tree, with prompts that share their beginning: torch's cross-entropy over the pooled states of each prompt alone (1e-5), for the head and an unfrozen layer."""
    chat = Chat.load(tiny)
    rows = [row("the phone is good", "b"), row("the phone is bad", "c"), row("a review", "a")]
    model = head.attach(load(tiny, "fp32"), labels=LABELS, pooling=pooling, unfreeze=1)
    nn.init.normal_(base_of(model).class_head.linear.weight, generator=torch.Generator().manual_seed(1))
    found = classify.loss(scored(model, [classify.encode(each, chat, labels=LABELS) for each in rows])).total
    found.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    prompts = [chat.prompt(each.messages[:-1]) for each in rows]
    logits = torch.cat([class_head.class_logits(model, [prompt], "fp32") for prompt in prompts])
    plain = nn.functional.cross_entropy(logits, torch.tensor([1, 2, 0]), reduction="sum")
    plain.backward()
    assert found.item() == pytest.approx(plain.item(), rel=1e-5)
    assert len(ours) == 11
    for name, parameter in model.named_parameters():
        if name in ours:
            assert parameter.grad is not None
            assert (ours[name] - parameter.grad).norm() <= 1e-5 * parameter.grad.norm().clamp_min(1e-4)


def test_a11_the_minimum_is_scikit_learns() -> None:
    """Full-batch descent on the objective over fixed features, with the same penalty: the classes' probabilities are LogisticRegression's, the values LinearRegression's (1e-3)."""
    from sklearn.linear_model import LinearRegression, LogisticRegression

    torch.manual_seed(0)
    features, truth = torch.randn(60, 5), torch.randint(0, 3, (60,)).float()
    for objective, outputs in ((classify, 3), (regress, 1)):
        module = class_head.ClassHead(5, outputs, "last")
        solver = torch.optim.LBFGS(module.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-12)

        def closure(objective: Any = objective, module: Any = module, solver: Any = solver) -> float:
            solver.zero_grad()
            penalty = 0.5 * module.linear.weight.square().sum() if objective is classify else 0.0
            total = objective.loss(states(features, truth, module)).total + penalty
            total.backward()
            return float(total.detach())

        solver.step(closure)
        with torch.no_grad():
            said = module(features)
        if objective is classify:
            theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(features.numpy(), truth.numpy())
            assert np.abs(said.softmax(-1).numpy() - theirs.predict_proba(features.numpy())).max() < 1e-3
        else:
            assert np.abs(said[:, 0].numpy() - LinearRegression().fit(features.numpy(), truth.numpy()).predict(features.numpy())).max() < 1e-3


def test_a11_rows_that_cannot_be_trained_on(tiny: Path) -> None:
    """A label outside the task, a number that is none, a label without a row, and heads of another size."""
    chat = Chat.load(tiny)
    with pytest.raises(Refused, match='"d" is not among'):
        classify.encode(row("x", "d"), chat, labels=LABELS)
    for text in ("good", "nan", "inf"):
        with pytest.raises(Refused, match="is no number"):
            regress.encode(row("x", text), chat)
    with pytest.raises(InputError, match=r'"b" has no row in train[\s\S]*"c" has no row in train'):
        classify.require([classify.encode(row("x", "a"), chat, labels=LABELS)], labels=LABELS)
    for objective, adapter in ((classify, {"kind": "reward"}), (regress, {"labels": ["a", "b"]})):
        example = classify.encode(row("x", "a"), chat, labels=LABELS)
        with pytest.raises(InputError, match="has no head of"):
            objective.loss(scored(head.attach(load(tiny, "fp32"), **adapter), [example]))


def test_pool() -> None:
    """Two rows of 3 and 1 tokens: the last token's vector, or the mean (1 + 2 + 6) / 3 = 3."""
    vectors, of = torch.tensor([[1.0], [2.0], [6.0], [5.0]]), torch.tensor([0, 0, 0, 1])
    assert class_head.pool(vectors, of, 2, "last").tolist() == [[6.0], [5.0]]
    assert class_head.pool(vectors, of, 2, "mean").tolist() == [[3.0], [5.0]]
    tree = build([class_head.read_whole([5, 6, 7]), class_head.read_whole([5, 6])])
    assert tree.sequence.tolist() == [0, 0, 0, 1, 1]
    assert len(tree.ids) == 3
