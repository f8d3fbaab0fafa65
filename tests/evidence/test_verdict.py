import pytest

from planish.errors import InputError
from planish.evidence.power import rows_needed
from planish.evidence.verdict import decide, standings
from planish.scores import Metric, RuleResult

PASS, FAIL = RuleResult(rule="label.accuracy >= 0.5", passed=True, why="fine"), RuleResult(rule="general.x >= 0.9", passed=False, why="0.80 on 400 rows")
OPEN = RuleResult(rule="general.x >= 0.9", passed=False, undecided=True, why="straddles")
METRIC = "label.accuracy"


def test_a_clear_win_ships(pair):
    ours, theirs = pair(400, 320, 50, 10)
    verdict = decide(ours, [theirs], [PASS], metric=METRIC)
    assert (verdict.decision, verdict.ship) == ("ship", "lora")
    assert verdict.sentence.startswith("Ship lora: lora 0.925 against 0.825 of classifier on label.accuracy, difference +0.100 [+0.0")
    assert verdict.sentence.endswith("the gate's rule holds.")


def test_e6_example_three_points_not_proved_needs_more_gold(pair):
    """E6 Ex: 11 against 5 discordant rows of 200: 6/200 = +3 points, d = 16/200 = .08, sd sqrt((.08 - .0009)/200) = .0199,
    CI .03 +- .039 = [-1, +7]. The gain is worth having and not proved: need_more_gold, rows by D10 for d = .08, g = .03."""
    ours, theirs = pair(200, 150, 11, 5)
    verdict = decide(ours, [theirs], [], metric=METRIC)
    found = verdict.comparisons[0]
    assert (found.difference, found.low, found.high) == pytest.approx((0.03, -0.01, 0.07), abs=0.003)
    assert (verdict.decision, verdict.ship) == ("need_more_gold", "classifier")
    assert verdict.rows_needed == rows_needed(0.08, 0.03)
    assert f"about {verdict.rows_needed} rows would" in verdict.sentence
    assert "Until then keep classifier" in verdict.sentence


def test_one_point_within_noise_on_enough_rows_keeps_the_baseline(pair):
    """.91 against .90 on 400 rows, d = .08: sd .0141, [-.018, +.038]."""
    ours, theirs = pair(400, 342, 22, 18)
    verdict = decide(ours, [theirs], [PASS], metric=METRIC)
    assert (verdict.decision, verdict.ship) == ("keep_baseline", "classifier")
    assert verdict.sentence.startswith("Keep classifier: lora 0.910 against 0.900")
    assert verdict.sentence.endswith("within noise.")


def test_d10_few_rows_and_an_open_interval_need_more_gold(pair):
    ours, theirs = pair(100, 80, 6, 5)
    verdict = decide(ours, [theirs], [], metric=METRIC)
    assert verdict.decision == "need_more_gold"
    assert verdict.rows_needed == rows_needed(0.11, 0.02)


def test_a_failed_rule_keeps_the_baseline_and_names_it(pair):
    ours, theirs = pair(400, 320, 50, 10)
    verdict = decide(ours, [theirs], [PASS, FAIL], metric=METRIC)
    assert (verdict.decision, verdict.ship) == ("keep_baseline", "classifier")
    assert 'fails "general.x >= 0.9": 0.80 on 400 rows (1 of 2 rules failed)' in verdict.sentence


def test_an_open_rule_does_not_ship(pair):
    ours, theirs = pair(400, 320, 50, 10)
    verdict = decide(ours, [theirs], [OPEN], metric=METRIC)
    assert verdict.decision == "keep_baseline"
    assert 'does not clear "general.x >= 0.9"' in verdict.sentence
    ours, theirs = pair(100, 60, 30, 5)
    assert decide(ours, [theirs], [OPEN], metric=METRIC).decision == "need_more_gold"


def test_a_candidate_that_is_clearly_worse_says_so_first(pair):
    ours, theirs = pair(400, 320, 10, 50)
    assert decide(ours, [theirs], [PASS], metric=METRIC).sentence.startswith("Keep classifier: lora is clearly worse: ")


def test_on_a_tie_the_cheaper_ships(pair):
    ours, theirs = pair(400, 342, 18, 18)
    assert decide(ours, [theirs], [PASS], metric=METRIC).ship == "classifier"
    assert decide(ours, [theirs], [PASS], metric=METRIC, cheapest_first=["classifier", "lora"]).ship == "classifier"
    verdict = decide(ours, [theirs], [PASS], metric=METRIC, cheapest_first=["lora", "classifier"])
    assert (verdict.decision, verdict.ship) == ("ship", "lora")
    assert "a tie, and lora is the cheaper" in verdict.sentence


def test_equal_baselines_name_the_cheaper(pair, report):
    ours, theirs = pair(400, 320, 10, 50)
    twin = theirs.model_copy(update={"system": "few_shot"})
    assert decide(ours, [theirs, twin], [], metric=METRIC, cheapest_first=["few_shot", "classifier"]).ship == "few_shot"


def test_the_best_baseline_is_the_one_to_beat(pair, report):
    ours, theirs = pair(400, 342, 18, 18)
    weak = report("majority", [True] * 200 + [False] * 200)
    verdict = decide(ours, [weak, theirs], [PASS], metric=METRIC)
    assert verdict.ship == "classifier"
    assert {found.reference for found in verdict.comparisons} == {"majority", "classifier"}


def test_e6_no_verdict_without_every_baseline_and_d10_without_30_rows(pair, report):
    ours, theirs = pair(29, 20, 2, 1)
    with pytest.raises(InputError) as refused:
        decide(ours, [], [], metric=METRIC, required=["majority"])
    assert [problem.where for problem in refused.value.problems] == ["gold", "baseline", "baseline"]
    ours, theirs = pair(30, 20, 2, 1)
    with pytest.raises(InputError, match="majority was not scored"):
        decide(ours, [theirs], [], metric=METRIC, required=["classifier", "majority"])
    with pytest.raises(InputError, match="did not measure"):
        decide(ours, [theirs], [], metric="rouge.l")


@pytest.mark.parametrize(
    ("n", "b", "c", "rules", "decision"),
    [
        (400, 50, 10, [PASS], "ship"),  # +10 points, interval above 0
        (400, 50, 10, [], "ship"),
        (400, 50, 10, [PASS, FAIL], "keep_baseline"),  # a rule failed: nothing else matters
        (400, 50, 10, [PASS, OPEN], "keep_baseline"),  # 400 rows are enough to have settled it
        (100, 30, 5, [OPEN], "need_more_gold"),  # 100 are not
        (400, 10, 50, [PASS], "keep_baseline"),  # clearly worse
        (400, 22, 18, [PASS], "keep_baseline"),  # +1 point within noise: a tie ships the cheaper
        (400, 30, 18, [PASS], "need_more_gold"),  # +3 points, worth having, not proved
        (100, 6, 5, [], "need_more_gold"),  # too few rows to call it a tie
        (400, 0, 0, [PASS], "keep_baseline"),  # the same answers
    ],
)
def test_e6_rule_table(pair, n, b, c, rules, decision):
    """E6 Proof: rule table. n rows, b only the candidate has right, c only the baseline."""
    ours, theirs = pair(n, round(0.8 * n) - b, b, c)
    found = decide(ours, [theirs], rules, metric=METRIC)
    assert found.decision == decision, found.sentence
    assert found.ship == ("lora" if decision == "ship" else "classifier")
    assert (found.rows_needed is not None) == (decision == "need_more_gold")


def test_e4_p_values_of_a_verdict_are_corrected_for_all_its_comparisons(pair, report):
    """E4: Holm for many. Against the weak baseline p is about 0, against the strong one b=15, c=5 gives .0414: of two tests the larger p stays, the smaller doubles."""
    ours, strong = pair(200, 150, 15, 5)
    weak = report("majority", [True] * 100 + [False] * 100)
    found = {one.reference: one for one in decide(ours, [weak, strong], [], metric=METRIC).comparisons}
    assert found["classifier"].p_holm == pytest.approx(0.0414, abs=5e-5)
    assert found["majority"].p_holm == pytest.approx(2 * found["majority"].p_value)


def test_e6_the_table_holds_cost_latency_and_the_worst_slice(pair):
    """90 seconds over 200 rows are .45 s an answer; a baseline of three seeds took its 120 seconds for 600 answers."""
    ours, theirs = pair(200, 150, 15, 5)
    draws = Metric(name=f"{METRIC}.over_seeds", value=0.77, n=3, low=0.76, high=0.78)
    ours, theirs = ours.model_copy(update={"seconds": 90.0}), theirs.model_copy(update={"seconds": 120.0, "metrics": theirs.metrics | {draws.name: draws}})
    cut = {"half": {f"r{place}": "first" if place < 100 else "second" for place in range(200)}}
    first, second = standings([ours, theirs], METRIC, cuts=cut)
    assert (first.system, first.seconds_per_answer, second.seconds_per_answer) == ("lora", pytest.approx(0.45), pytest.approx(0.2))
    assert (first.worst_slice, first.worst.value) == ("half second", pytest.approx(0.65))
    untimed = standings([ours.model_copy(update={"seconds": 0.0})], METRIC)[0]
    assert (untimed.seconds_per_answer, untimed.worst_slice) == (None, None), "not measured is None, never 0"
