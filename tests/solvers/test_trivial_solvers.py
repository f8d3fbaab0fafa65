"""Random, copy-input and empty against scikit-learn's DummyClassifier and by hand (MISSION B1)."""

from collections import Counter

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from tests.solvers.scripted import origin, sample

from planish.data.task import KINDS, classification, make
from planish.errors import InputError
from planish.rows import LabelRow, QuestionRow
from planish.scorers import rouge, tool_call
from planish.solvers import copy_input, empty, random

TRAIN = [LabelRow(id=f"t{i}", origin=origin(i + 1), text=f"text {i}", label=name) for i, name in enumerate(["a"] * 70 + ["b"] * 20 + ["c"] * 10)]
TASK = classification(("a", "b", "c"))


@pytest.mark.parametrize("draw", ["uniform", "stratified"])
def test_b1_random_draws_as_scikit_learn_does(draw):
    """B1 Proof: over 6,000 rows the shares of the answers agree within .03, five standard errors of a difference of two shares (5 x sqrt(2 x .25 / 6000) = .046 at
    the very most; .03 is five at a share of .1). Uniform is 1/3 each, stratified .7/.2/.1."""
    samples = [sample(i, "x", "a") for i in range(6000)]
    ours = Counter(random.solve(samples, ["x"] * 6000, TRAIN, TASK, None, draw=draw))
    oracle = DummyClassifier(strategy=draw, random_state=0).fit(np.zeros((100, 1)), [row.label for row in TRAIN])
    theirs = Counter(oracle.predict(np.zeros((6000, 1))).tolist())
    expected = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3} if draw == "uniform" else {"a": 0.7, "b": 0.2, "c": 0.1}
    for name, share in expected.items():
        assert ours[name] / 6000 == pytest.approx(share, abs=0.03)
        assert ours[name] / 6000 == pytest.approx(theirs[name] / 6000, abs=0.03)


def test_random_repeats_for_a_seed_and_changes_with_it():
    samples = [sample(i, "x", "a") for i in range(50)]
    first, again, other = (random.solve(samples, ["x"] * 50, TRAIN, TASK, None, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_random_without_labels_draws_an_answer_that_was_given():
    rows = [QuestionRow(id=f"q{i}", origin=origin(i + 1), question="who?", answer=name) for i, name in enumerate(["Ada", "Ada", "Bo"])]
    assert set(random.solve([sample(i, "x", "y") for i in range(40)], ["x"] * 40, rows, make("qa"), None)) == {"Ada", "Bo"}
    with pytest.raises(InputError, match="no training rows"):
        random.solve([sample(0, "x", "a")], ["x"], [], TASK, None)


def test_b1_copy_and_empty_need_nothing():
    """B1 Bad: no labels -> copy/empty only: both answer without rows, labels or a model. A document as its own summary has every word of it."""
    asked = [sample(0, "Summarise.\n\nthe cat sat on the mat", "cat sat")]
    copied = copy_input.solve(asked, ["the cat sat on the mat"], [], make("summarization"), None)
    assert copied == ["the cat sat on the mat"]
    assert rouge.score(asked[0], copied[0]).detail["rouge1"] == pytest.approx(2 * 2 / (6 + 2))  # precision 2/6, recall 1: F = 2 x 2 / 8
    assert empty.solve(asked, ["x"], [], make("summarization"), None) == [""]


def test_copying_is_the_system_that_never_calls_and_silence_is_no_answer():
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    silent = sample(0, "hello", "hello back").model_copy(update={"tools": (tool,)})
    called = sample(1, "add 1", '[{"name":"add","arguments":{"a":1}}]').model_copy(update={"tools": (tool,)})
    asked, texts = [silent, called], ["hello", "add 1"]
    copied, nothing = (solver.solve(asked, texts, [], make("tools"), None) for solver in (copy_input, empty))
    assert [tool_call.score(one, answer).value for one, answer in zip(asked, copied, strict=True)] == [1.0, 0.0]
    assert [tool_call.score(one, answer).value for one, answer in zip(asked, nothing, strict=True)] == [0.0, 0.0]


@pytest.mark.parametrize("shape", [shape for shape in KINDS if shape != "preference"])
def test_b1_every_shape_has_a_trivial_floor(shape):
    """B1: printed beside every later score. Pairs are judged by log-probabilities, which nothing trivial has."""
    assert {"majority", "random", "copy_input", "empty"} & set(KINDS[shape].baselines)
