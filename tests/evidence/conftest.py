import pytest

from planish.scorers import label
from planish.scores import EvalReport, Metric, Score


def _report(system, right, *, gold="gold-1", figures=None, labels=("yes", "no")):
    """A report with one score per entry of `right` (bool): the target alternates, a wrong answer is the other label."""
    scores = []
    for position, ok in enumerate(right):
        target = labels[position % 2]
        answer = target if ok else labels[1 - position % 2]
        scores.append(Score(id=f"r{position}", answer=answer, parsed=answer, target=target, value=float(ok)))
    metrics = {f"label.{name}": metric for name, metric in label.metrics(scores, labels, resamples=200).items()}
    return EvalReport(system=system, gold=gold, metrics=metrics | (figures or {}), scores=scores)


@pytest.fixture
def report():
    return _report


@pytest.fixture
def pair():
    """(n, right of both, only candidate right b, only reference right c) to two reports."""

    def make(n, both, b, c, names=("lora", "classifier")):
        ours = [True] * (both + b) + [False] * (n - both - b)
        theirs = [True] * both + [False] * b + [True] * c + [False] * (n - both - b - c)
        return _report(names[0], ours), _report(names[1], theirs)

    return make


@pytest.fixture
def figure():
    def make(name, value, low=None, high=None, n=400, **more):
        return Metric(name=name, value=value, low=low, high=high, n=n, **more)

    return make
