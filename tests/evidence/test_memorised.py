import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from planish.errors import InputError
from planish.evidence.memorised import Gap, gap
from planish.scores import EvalReport, Score


def _report(system, values, prefix=""):
    scores = [Score(id=f"{prefix}{i}", answer="a", parsed="a", target="t", value=float(value)) for i, value in enumerate(values)]
    return EvalReport(system=system, gold="g", metrics={}, scores=scores)


def test_e7_a_model_that_knows_its_rows_is_called_out():
    """E7: train against gold gap. 196 of 200 against 150 of 200: .98 - .75 = +.23. Wilson [.950, .992] and [.686, .805]: low .23 - sqrt(.030^2 + .055^2) = .167,
    high .23 + sqrt(.012^2 + .064^2) = .295. All of it lies above .05."""
    found = gap(_report("train", [1] * 196 + [0] * 4, "t"), _report("gold", [1] * 150 + [0] * 50, "g"))
    assert (found.difference, found.low, found.high) == pytest.approx((0.23, 0.167, 0.295), abs=0.002)
    assert found.verdict == "memorised"
    assert "fewer epochs" in found.sentence
    assert Gap.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(("train", "gold"), [((196, 200), (150, 200)), ((90, 100), (88, 100)), ((400, 400), (395, 400))])
def test_the_interval_agrees_with_statsmodels_newcombe(train, gold):
    found = gap(_report("t", [1] * train[0] + [0] * (train[1] - train[0]), "t"), _report("g", [1] * gold[0] + [0] * (gold[1] - gold[0]), "g"))
    expected = confint_proportions_2indep(train[0], train[1], gold[0], gold[1], method="newcomb", compare="diff")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


def test_equal_scores_on_many_rows_generalise_and_on_few_settle_nothing():
    assert gap(_report("t", [1] * 450 + [0] * 50, "t"), _report("g", [1] * 450 + [0] * 50, "g")).verdict == "generalises"
    few = gap(_report("t", [1] * 27 + [0] * 3, "t"), _report("g", [1] * 27 + [0] * 3, "g"))
    assert few.verdict == "undecided"
    assert "do not settle" in few.sentence


def test_graded_and_clustered_scores_go_by_the_bootstrap():
    graded = gap(_report("t", [0.9, 0.8] * 60, "t"), _report("g", [0.6, 0.5] * 60, "g"))
    assert (graded.difference, graded.verdict) == (pytest.approx(0.3), "memorised")
    assert graded.train.method == "bootstrap 10000"
    rows = _report("t", [1, 1, 1, 0] * 30, "t"), _report("g", [1, 1, 0, 0] * 30, "g")
    clusters = {f"g{i}": f"c{i % 4 // 2}{i // 40}" for i in range(120)}
    assert gap(*rows, gold_groups=clusters).low < gap(*rows).low


def test_a_row_in_both_and_no_rows_are_refused():
    with pytest.raises(InputError, match="both trained on and gold"):
        gap(_report("t", [1, 0]), _report("g", [1, 0]))
    with pytest.raises(InputError) as refused:
        gap(_report("t", []), _report("g", []))
    assert len(refused.value.problems) == 2
