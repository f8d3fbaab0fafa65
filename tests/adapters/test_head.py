"""A head on a frozen model: what it reads, scikit-learn's answer from the same features, and where in the model a label can be read (MISSION A11)."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.adapters.shelf_of_adapters import attached, log_probs
from torch import nn

from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.class_head import by_layer, class_logits, pooled
from planish.model.layout import use_plain
from planish.model.load import load
from planish.model.probe import fit, fit_head, read_layers
from planish.model.trained import open_trained, save


def rows(count: int, seed: int) -> tuple[list[list[int]], list[str]]:
    """Rows of 3 to 9 tokens whose label is which of three words stands first."""
    draw = random.Random(seed)
    words = {"a": 20, "b": 21, "c": 22}
    labels = [draw.choice("abc") for _ in range(count)]
    return [[words[label], *(draw.randrange(30, 90) for _ in range(draw.randrange(2, 9)))] for label in labels], labels


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_features_are_the_models_hidden_states(biased: Path, pooling: str) -> None:
    """Rows with shared beginnings, and one that is another's beginning: the last token's final hidden state, or the mean, of each alone."""
    model = load(biased, "fp32")
    some = [[5, 6, 7, 8], [5, 6], [5, 6, 9], [40, 41, 42]]
    with torch.no_grad():
        ours = pooled(model, some, "fp32", pooling=pooling)  # type: ignore[arg-type]
        layered = by_layer(model, some, "fp32", pooling=pooling)  # type: ignore[arg-type]
        use_plain(model)
        alone = [model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states for row in some]
    take = (lambda states: states[0, -1]) if pooling == "last" else (lambda states: states[0].mean(0))
    assert torch.allclose(ours, torch.stack([take(states[-1]) for states in alone]), atol=1e-5)
    assert len(layered) == 3
    assert torch.allclose(layered[0], torch.stack([take(states[1]) for states in alone]), atol=1e-5)
    assert torch.equal(layered[-1], ours)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_probe_is_scikit_learns_logistic_regression(biased: Path, c: float) -> None:
    """MISSION A11: same features, same weights (1e-4), same predictions."""
    from sklearn.linear_model import LogisticRegression

    some, labels = rows(60, 0)
    with torch.no_grad():
        features = pooled(load(biased, "fp32"), some, "fp32")
    ours = fit(features, labels, c)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(features.double().numpy(), labels)
    assert tuple(theirs.classes_) == ours.labels
    assert np.abs(ours.weight.numpy() - theirs.coef_).max() < 1e-4
    shift = ours.bias.numpy() - theirs.intercept_  # a shift of all biases changes no probability
    assert np.abs(shift - shift.mean()).max() < 1e-4
    assert ours.predict(features) == list(theirs.predict(features.double().numpy()))


def test_labels_that_cannot_be_learned_are_refused() -> None:
    """MISSION A11: a label unseen in train."""
    features = torch.randn(4, 3)
    with pytest.raises(InputError, match=r'"c" has no row in train[\s\S]*"b" is not among'):
        fit(features, ["a", "b", "a", "b"], known=["a", "c"])
    with pytest.raises(InputError, match="all 4 rows have one label"):
        fit(features, ["a"] * 4)


def test_head_is_fitted_saved_and_answers(biased: Path, tmp_path: Path) -> None:
    """Fitted on frozen features in the order of its own classes; opened again it says the same, and the text that the model writes is the base's."""
    some, labels = rows(80, 4)
    other, truth = rows(40, 5)
    names = ["c", "a", "b"]
    model = attached(biased, "head", labels=names, pooling="mean", unfreeze=0)
    fit_head(model, some, labels, names, "fp32", c=100.0)
    save(model, Chat.load(biased), tmp_path, biased)
    opened = open_trained(biased, tmp_path, "fp32")
    with torch.no_grad():
        said = class_logits(opened, other, "fp32")
        assert torch.equal(said, class_logits(model, other, "fp32"))
    assert sum(names[place] == label for place, label in zip(said.argmax(-1).tolist(), truth, strict=True)) > 28
    assert torch.allclose(log_probs(opened), log_probs(load(biased, "fp32")), atol=1e-5)
    with pytest.raises(InputError, match='"d" has no row in train'):
        fit_head(model, some, labels, [*names, "d"], "fp32")


def test_where_in_the_model_the_label_is_read(biased: Path) -> None:
    """Whether a row begins with one of two words: every layer's last token can tell better than chance, on rows that no probe has seen."""
    some, labels = rows(120, 1)
    other, truth = rows(60, 2)
    model = load(biased, "fp32")
    found = read_layers(by_layer(model, some, "fp32", pooling="mean"), labels, by_layer(model, other, "fp32", pooling="mean"), truth)
    assert [reading.layer for reading in found] == [0, 1, 2]
    assert all(reading.rows == 60 for reading in found)
    assert all(reading.right > 40 for reading in found)


def test_cached_features_give_the_gradients_of_the_whole_pass(biased: Path) -> None:
    """MISSION A11: with a frozen trunk, the head's gradient from features computed once is that of the pass through the model (1e-6)."""
    some, labels = rows(12, 3)
    model = attached(biased, "head", labels=["a", "b", "c"], unfreeze=0)
    target = torch.tensor(["abc".index(label) for label in labels])
    head = model.class_head
    assert isinstance(head, nn.Module)
    with torch.no_grad():
        for parameter in head.parameters():
            nn.init.normal_(parameter)
        cached = pooled(model, some, "fp32")
    gradients = []
    for logits in (class_logits(model, some, "fp32"), head(cached)):
        model.zero_grad()
        nn.functional.cross_entropy(logits, target).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in head.parameters() if parameter.grad is not None]))
    assert gradients[0].norm() > 0
    assert torch.allclose(*gradients, atol=1e-6)


def test_unfreezing_reaches_the_last_layers_only(biased: Path) -> None:
    model = attached(biased, "head", labels=["a", "b"], unfreeze=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".layers.1." in name or name.startswith("class_head.")}


@pytest.mark.parametrize("kind", ["regression", "reward"])
def test_one_output(biased: Path, kind: str) -> None:
    model = attached(biased, "head", kind=kind, labels=None)
    with torch.no_grad():
        assert torch.equal(class_logits(model, [[5, 6], [7, 8, 9]], "fp32"), torch.zeros(2, 1))
