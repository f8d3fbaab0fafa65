import math

import numpy as np
import pytest
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_oracle
from statsmodels.stats.multitest import multipletests

from planish.errors import InputError
from planish.evidence.intervals import resampled
from planish.evidence.paired import compare, holm, mcnemar, score_interval
from planish.evidence.statistic import statistic
from planish.scores import EvalReport, Metric, Score


@pytest.mark.parametrize(("b", "c", "p"), [(15, 5, 0.0414), (9, 1, 0.0215)])
def test_mcnemar_e4_examples(b, c, p):
    """E4 Ex: 2 P(Bin(20, .5) >= 15) = 2 x 21700/1048576 = .0414; 2 P(Bin(10, .5) >= 9) = 2 x 11/1024 = .0215."""
    assert mcnemar(b, c) == pytest.approx(p, abs=5e-5)
    assert mcnemar(b, c) == pytest.approx(mcnemar_oracle([[0, b], [c, 0]], exact=True).pvalue, rel=1e-12)
    assert mcnemar(b, c, alternative="greater") == pytest.approx(p / 2, abs=5e-5)
    assert mcnemar(c, b, alternative="less") == mcnemar(b, c, alternative="greater")


def test_mcnemar_of_no_discordant_row_is_one():
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(InputError):
        mcnemar(-1, 2)


def test_holm_agrees_with_statsmodels():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.8]
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert holm([]) == []


def test_score_interval_solves_tangos_equation_and_keeps_width_without_discordance():
    """No discordant row of n: the ends solve z^2 = n d^2 / (|d| (1 - |d|)) with the nuisance share at 0, so d = z^2 / (n + z^2):
    3.8415 / 53.8415 = .0713 at n = 50, 3.8415 / 203.84 = .0188 at n = 200."""
    assert score_interval(0, 0, 50) == pytest.approx((-0.0713, 0.0713), abs=1e-4)
    assert score_interval(0, 0, 200).high == pytest.approx(0.0188, abs=1e-4)
    low, high = score_interval(9, 3, 100)
    assert low < 0.06 < high
    assert score_interval(3, 9, 100) == pytest.approx((-high, -low), abs=1e-9)


def test_compare_z6_example(pair):
    """Z6 Ex: .90 -> .895 on 400 rows, 8 against 6 discordant: difference -.005, sd sqrt((14/400 - .005^2)/400) = .00935, CI about [-.023, +.013];
    twice the rows at the same rate: sd .0066, [-.018, +.008], whose lower end lies above -.02."""
    source_400, quantised_400 = pair(400, 352, 8, 6, ("source", "q4"))
    found = compare(quantised_400, source_400, "label.accuracy")
    assert found.difference == pytest.approx(-0.005)
    assert (found.low, found.high) == pytest.approx((-0.023, 0.013), abs=0.003)
    source_800, quantised_800 = pair(800, 704, 16, 12, ("source", "q4"))
    assert found.low < -0.02 < compare(quantised_800, source_800, "label.accuracy").low


@pytest.mark.parametrize(("right", "low", "high"), [(40, 0.4124, 0.5), (38, 0.335, 0.5)])
def test_all_right_against_the_bases_half_is_a_sample_still(right, low, high):
    """Preference pairs, on each of which the base has .5: of 40 right ones Wilson's lower end is 40 / (40 + 3.8415) = .9124, less .5 is +.4124; a bootstrap resamples 40 times
    the same +.5 and gives [.5, .5]. 38 of 40: Wilson [.8350, .9862]; the bootstrap's own upper end, +.5, is kept. Turned about, the same with the other sign."""

    def told(system, values):
        scores = [Score(id=str(n), answer=None, parsed=None, target="x", value=value, detail={"accuracy": value}) for n, value in enumerate(values)]
        metric = Metric(name="pair_accuracy.accuracy", value=sum(values) / len(values), n=len(values))
        return EvalReport(system=system, gold="g", metrics={metric.name: metric}, scores=scores)

    ours, base = told("lora", [1.0] * right + [0.0] * (40 - right)), told("prompt", [0.5] * 40)
    found, back = (compare(*sides, "pair_accuracy.accuracy", resamples=500) for sides in ((ours, base), (base, ours)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert "Wilson" in found.test


def test_compare_mcnemar_p_and_swap(pair):
    ours, theirs = pair(200, 150, 15, 5)
    found, back = compare(ours, theirs, "label.accuracy"), compare(theirs, ours, "label.accuracy")
    assert found.p_value == pytest.approx(0.0414, abs=5e-5)
    assert found.test.startswith("exact McNemar")
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert (found.n, found.candidate, found.reference) == (200, "lora", "classifier")


def test_compare_macro_f1_bootstrap_equals_scikit_learn_per_resample(report):
    rng = np.random.default_rng(1)
    one = report("one", rng.random(60) < 0.8)
    targets, answers = [score.target for score in one.scores], [score.parsed for score in one.scores]
    of = statistic(one, "label.macro_f1")
    weights = rng.multinomial(60, [1 / 60] * 60, size=20).astype(np.float32)
    expected = [f1_score(targets, answers, average="macro", labels=["yes", "no"], sample_weight=w, zero_division=0) for w in weights]
    assert of(weights) == pytest.approx(expected, abs=1e-12)


def test_identical_reports_are_not_exactly_equal_on_few_rows(report):
    """No row of 50 differs: that shows a difference below about 7 points, not 0 (C4: fewer than 200 rows cannot clear 3 points)."""
    right = [True] * 40 + [False] * 10
    for metric in ("label.accuracy", "label.macro_f1"):
        found = compare(report("a", right), report("b", right), metric)
        assert (found.difference, found.low) == pytest.approx((0.0, -0.0713), abs=1e-4)
        assert found.p_value == 1.0


def test_clusters_widen_the_difference(report):
    ours = report("a", ([True] * 8 + [False] * 8) * 10)
    theirs = report("b", ([False] * 4 + [True] * 4 + [False] * 8) * 10)
    groups = {f"r{position}": f"g{position // 40}" for position in range(160)}
    copies = {f"r{position}": f"g{(position % 16) // 4}" for position in range(160)}
    plain, clustered = compare(ours, theirs, "label.accuracy"), compare(ours, theirs, "label.accuracy", groups=copies)
    assert clustered.high - clustered.low > 2 * (plain.high - plain.low)
    assert "cluster" in compare(ours, theirs, "label.accuracy", groups=groups).test


def test_unpaired_reports_are_refused_with_every_problem(report):
    ours, theirs = report("a", [True] * 40), report("b", [True] * 39, gold="gold-2")
    with pytest.raises(InputError) as refused:
        compare(ours, theirs, "label.accuracy")
    assert "gold-1" in str(refused.value)
    assert "1 rows were not scored: r39" in str(refused.value)
    assert len(refused.value.problems) == 2


def test_a_changed_target_and_a_repeated_id_are_refused(report):
    ours = report("a", [True] * 4)
    changed = ours.model_copy(update={"scores": [ours.scores[0].model_copy(update={"target": "other"}), *ours.scores[1:]]})
    with pytest.raises(InputError, match="target differs"):
        compare(ours, changed, "label.accuracy")
    with pytest.raises(InputError, match="occurs twice"):
        compare(ours, ours.model_copy(update={"scores": [*ours.scores, ours.scores[0]]}), "label.accuracy")


def test_order_of_rows_does_not_matter(report):
    ours, theirs = report("a", [True, False] * 30), report("b", [True, True, False] * 20)
    shuffled = theirs.model_copy(update={"scores": theirs.scores[::-1]})
    assert compare(ours, shuffled, "label.accuracy") == compare(ours, theirs, "label.accuracy")


def test_a_metric_its_rows_do_not_give_is_refused(report, figure):
    ours = report("a", [True] * 40, figures={"judge.elo": figure("elo", 1200.0, 1100.0, 1300.0)})
    with pytest.raises(InputError, match="its rows give 1"):
        compare(ours, ours, "judge.elo")
    with pytest.raises(InputError, match="did not measure it"):
        compare(ours, ours, "label.bleu")


def test_token_weighted_metrics_are_ratios_of_sums():
    """Two documents, 10 of 20 and 60 of 80 tokens right: 70/100 = .70, not the mean of .50 and .75. Perplexity exp(230/100) = 9.974."""
    details = [{"correct": 10.0, "tokens": 20.0, "nll": 50.0}, {"correct": 60.0, "tokens": 80.0, "nll": 180.0}]
    scores = [Score(id=str(i), answer=None, parsed=None, target="", value=0.0, detail=detail) for i, detail in enumerate(details)]
    metrics = {
        "general.next_token_accuracy": Metric(name="next_token_accuracy", value=0.70, n=2, low=0.5, high=0.75),
        "general.perplexity": Metric(name="perplexity", value=math.exp(2.3), n=2, low=8.0, high=12.0, higher_is_better=False),
    }
    held_out = EvalReport(system="base", gold="text", metrics=metrics, scores=scores)
    one = np.ones((1, 2), np.float32)
    assert statistic(held_out, "general.next_token_accuracy")(one)[0] == pytest.approx(0.70)
    assert statistic(held_out, "general.perplexity")(one)[0] == pytest.approx(9.974, abs=1e-3)
    draws = resampled(statistic(held_out, "general.next_token_accuracy"), 2, resamples=500)
    assert set(np.round(draws, 6)) == {0.5, 0.7, 0.75}
