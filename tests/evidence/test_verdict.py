import pytest

from planish.errors import InputError
from planish.evidence.power import rows_needed
from planish.evidence.verdict import decide
from planish.scores import RuleResult

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
