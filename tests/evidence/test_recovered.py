"""Damage, recovery and what is kept (MISSION Z10)."""

import math

import pytest

from planish.errors import InputError
from planish.evidence.recovered import recovery
from planish.scores import EvalReport, Metric, Score


def test_z10_ex_89_percent(report):
    """MISSION Z10 Ex: .90 -> .55 -> .86: damage .35, won back .31, .31/.35 = 88.6 %; S5: .86/.90 = 95.6 %."""
    made = [report(name, [True] * right + [False] * (100 - right)) for name, right in (("parent", 90), ("pruned", 55), ("recovered", 86))]
    found = recovery(*made, "label.accuracy")
    assert (found.damage.difference, found.regained.difference) == pytest.approx((0.35, 0.31))
    assert round(found.share, 2) == 0.89
    assert found.retained.value == pytest.approx(0.86 / 0.90)
    assert "recovered 89% of the damage of 0.350" in found.sentence
    assert found.damage.low > 0 < found.regained.low


def test_no_damage_outside_noise_is_no_recovery(report):
    """A loss of 1 row in 100 is noise: no share, though 1/1 would be 100 %; a gain by pruning has none either."""
    for pruned in (89, 90, 99):
        made = [report(name, [True] * right + [False] * (100 - right)) for name, right in (("parent", 90), ("pruned", pruned), ("recovered", 90))]
        found = recovery(*made, "label.accuracy")
        assert found.share is None
        assert "nothing to win back" in found.sentence


def test_lower_is_better_turns_the_signs():
    """Perplexity 4 -> 9 -> 5: damage 5, won back 4, 80 %."""

    def scored(system, value):
        scores = [
            Score(id=str(i), answer=None, parsed=None, target="", value=math.log(value), detail={"nll": 10 * math.log(value), "tokens": 10.0})
            for i in range(40)
        ]
        return EvalReport(
            system=system, gold="t", metrics={"perplexity": Metric(name="perplexity", value=value, n=40, higher_is_better=False)}, scores=scores, seconds=value
        )

    found = recovery(scored("parent", 4.0), scored("pruned", 9.0), scored("recovered", 5.0), "perplexity")
    assert found.share == pytest.approx(0.8)
    assert found.retained.value == pytest.approx(0.8)
    assert found.speed == pytest.approx(0.8)


def test_other_rows_and_missing_metrics_are_refused(report):
    parent, pruned = report("parent", [True] * 40), report("pruned", [False] * 40)
    with pytest.raises(InputError, match="gold"):
        recovery(parent, pruned, report("recovered", [True] * 40, gold="other"), "label.accuracy")
    with pytest.raises(InputError, match="was not measured"):
        recovery(parent, pruned, parent, "rouge.rougeL")
