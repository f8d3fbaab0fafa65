import math

import numpy as np
import pytest

from planish.errors import InputError
from planish.evidence.retained import quality_retained
from planish.scores import EvalReport, Metric, Score


def test_s5_example_accuracy(pair):
    """S5 Ex: student .84, teacher .90 -> .84/.90 = .933."""
    student, teacher = pair(400, 330, 6, 30, ("student", "teacher"))
    found = quality_retained(student, teacher, "label.accuracy")
    assert found.value == pytest.approx(0.933, abs=5e-4)
    assert 0.89 < found.low < found.value < found.high < 0.97
    assert (found.name, found.n) == ("quality_retained", 400)


def _perplexity(system, nll):
    scores = [Score(id=str(i), answer=None, parsed=None, target="", value=0.0, detail={"nll": x, "tokens": 10.0}) for i, x in enumerate(nll)]
    value = math.exp(sum(nll) / (10 * len(nll)))
    return EvalReport(
        system=system, gold="t", metrics={"perplexity": Metric(name="perplexity", value=value, n=len(nll), higher_is_better=False)}, scores=scores
    )


def test_s5_example_perplexity():
    """S5 Ex: lower is better, so teacher / student: 8 / 10 = .800. With one ratio in every row the interval is a point."""
    noise = np.random.default_rng(0).normal(0, 1, 50)
    noise -= noise.mean()
    teacher = _perplexity("teacher", list(10 * math.log(8) + noise))
    student = _perplexity("student", list(10 * math.log(10) + noise))
    found = quality_retained(student, teacher, "perplexity")
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8), abs=1e-5)


def test_a_teacher_at_zero_is_undefined_not_one(report):
    with pytest.raises(InputError, match="undefined"):
        quality_retained(report("student", [True] * 40), report("teacher", [False] * 40), "label.accuracy")
    with pytest.raises(InputError, match="no interval"):
        quality_retained(report("student", [True] * 40), report("teacher", [True] + [False] * 39), "label.accuracy")


def test_models_that_answer_alike_on_few_rows_prove_little(report):
    """60 rows, 45 right, none answered otherwise: Tango's 90 % interval of the difference is +-z^2 / (n + z^2) = 2.706 / 62.706 = .0432; over .75 that leaves .9425 to 1.0575."""
    rows = [True] * 45 + [False] * 15
    found = quality_retained(report("student", rows), report("teacher", rows), "label.accuracy")
    assert found.value == 1
    assert (found.lower, found.upper) == pytest.approx((0.9425, 1.0575), abs=1e-4)
    assert found.low < found.lower


def test_another_gold_set_is_refused(report):
    with pytest.raises(InputError, match="gold"):
        quality_retained(report("student", [True] * 40), report("teacher", [True] * 40, gold="gold-2"), "label.accuracy")


def test_s5_coverage_by_simulation(report):
    """S5 Proof: the 95 % interval holds the true .84/.90 in about 95 % of 200 simulated gold sets (binomial standard error .015)."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        teacher = rng.random(150) < 0.9
        student = np.where(teacher, rng.random(150) < 0.82 / 0.9, rng.random(150) < 0.2)
        scores = [[Score(id=str(i), answer="", parsed=None, target="", value=float(x)) for i, x in enumerate(right)] for right in (student, teacher)]
        one, two = (
            EvalReport(system=name, gold="g", metrics={"exact": Metric(name="exact", value=float(np.mean(right)), n=150)}, scores=rows)
            for name, right, rows in (("s", student, scores[0]), ("t", teacher, scores[1]))
        )
        found = quality_retained(one, two, "exact", resamples=600)
        held += found.low <= 0.84 / 0.9 <= found.high
    assert 0.89 <= held / 200 <= 0.99
