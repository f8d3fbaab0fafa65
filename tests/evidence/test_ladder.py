import pytest

from planish.errors import InputError
from planish.evidence.intervals import wilson
from planish.evidence.ladder import Ascent, Cost
from planish.scores import Metric

N = 200


@pytest.fixture
def scripted(report):
    """(system, share right of 200, first row) to a report: the right rows begin at `first` and wrap around."""

    def make(system, share, first=0):
        right = round(share * N)
        return report(system, [(row - first) % N < right for row in range(N)])

    return make


def test_g2_example_the_climb_stops_at_the_first_rung_that_clears(scripted):
    """G2 Ex: .62 / .71 / .90 with the gate at .85 stops at rung 3: the one-sided 95 % Wilson bound of 180/200 is .859."""
    assert wilson(180, N, confidence=0.9).low == pytest.approx(0.859, abs=0.001)
    climb = Ascent("label.accuracy >= 0.85", N)
    for system, share in (("majority", 0.62), ("prompt", 0.71), ("classifier", 0.90)):
        assert not climb.done
        climb.add(scripted(system, share))
    assert climb.done
    found = climb.conclude(["lora", "full"])
    assert [rung.outcome for rung in found.rungs] == ["misses", "misses", "clears"]
    assert (found.decision, found.ship, found.skipped) == ("ship", "classifier", ("lora", "full"))
    assert found.reason.startswith('Ship classifier: it is the cheapest of 3 rungs tried that clears "label.accuracy >= 0.85" with 0.900 [0.8')
    assert found.reason.endswith("; 2 dearer rungs not needed.")


def test_g2_example_091_after_090_is_never_chosen_at_200_rows(scripted):
    """G2 Ex. 182/200 has the one-sided bound .871, so it clears .87 where 180/200 (.859) does not; yet one point of 200 rows is no gain over it
    (paired bound below 0, and below min_gain .02), however the right rows overlap: the dearer rung is not shipped, more gold decides."""
    for first in (0, 5, 18):
        climb = Ascent("label.accuracy >= 0.87", N)
        climb.add(scripted("classifier", 0.90))
        dear = climb.add(scripted("lora", 0.91, first))
        assert dear.outcome == "clears"
        assert not dear.earned
        found = climb.conclude()
        assert (found.decision, found.ship) == ("need_more_gold", "classifier")
        assert "is no proven gain over the cheaper classifier" in found.reason


def test_a_gain_is_only_earned_with_two_points_and_an_interval_above_nothing(scripted, pair):
    climb = Ascent("label.accuracy >= 0.99", 400)
    ours, theirs = pair(400, 380, 6, 0)  # +1.5 points, and the interval lies above 0
    climb.add(theirs)
    rung = climb.add(ours)
    assert rung.gain.low > 0
    assert not rung.earned
    wide = Ascent("label.accuracy >= 0.99", 200)
    ours, theirs = pair(200, 150, 11, 5)  # +3 points, and it does not
    wide.add(theirs)
    assert not wide.add(ours).earned


def test_a_lower_is_better_goal_counts_a_fall_as_the_gain(report):
    def with_loss(system, right, loss):
        made = report(system, right)
        scores = [score.model_copy(update={"detail": {"loss": loss + 0.2 * (index % 2)}}) for index, score in enumerate(made.scores)]
        figure = Metric(name="text.loss", value=loss + 0.1, low=loss + 0.09, high=loss + 0.11, n=N, higher_is_better=False, method="bootstrap 10000")
        return made.model_copy(update={"metrics": made.metrics | {"text.loss": figure}, "scores": scores})

    climb = Ascent("text.loss <= 1.0", N)
    climb.add(with_loss("prompt", [True] * N, 2.0))
    rung = climb.add(with_loss("lora", [True] * N, 0.5))
    assert rung.earned
    assert rung.outcome == "clears"
    assert climb.conclude().ship == "lora"


def test_undecided_says_how_many_rows_would_decide(scripted):
    """.88 on 200 rows against .85: [.828, .918] two-sided, half-width .045 x 1.645/1.960 = .0378; (.0378/.03)^2 x 200 = 318."""
    climb = Ascent("label.accuracy >= 0.85", N)
    assert climb.add(scripted("prompt", 0.88)).outcome == "undecided"
    found = climb.conclude()
    assert found.decision == "need_more_gold"
    assert found.rows_needed == pytest.approx(318, abs=5)
    assert f"about {found.rows_needed} rows would. Until then keep prompt." in found.reason


def test_no_rung_reaches_it_and_the_best_is_named_with_what_was_screened_out(scripted):
    climb = Ascent("label.accuracy >= 0.95", N)
    climb.add(scripted("majority", 0.5))
    climb.screened_out("prompt", Metric(name="label.accuracy", value=0.6, n=25, low=0.4, high=0.77), "e-value 24 after 25 of 200 rows")
    climb.failed("few_shot", "the prompt does not fit")
    climb.add(scripted("lora", 0.7), Cost(train_seconds=60.0))
    found = climb.conclude()
    assert [rung.outcome for rung in found.rungs] == ["misses", "screened_out", "failed", "misses"]
    assert (found.decision, found.ship) == ("not_reached", "lora")
    assert found.rungs[1].rows == 25
    assert "No rung reaches" in found.reason


def test_what_cannot_be_a_goal_is_refused():
    for goal, why in (("label.accuracy >= base.label.accuracy", "compares two systems"), ("0.8 <= label.accuracy", "starts with a number")):
        with pytest.raises(InputError, match=why):
            Ascent(goal, N)
    with pytest.raises(InputError, match="29 gold rows: fewer than 30"):
        Ascent("label.accuracy >= 0.8", 29)


def test_a_metric_nobody_measured_is_refused_with_what_was(scripted):
    climb = Ascent("label.acuracy >= 0.8", N)
    with pytest.raises(InputError, match=r"did not measure label\.acuracy"):
        climb.add(scripted("prompt", 0.9))


def test_where_every_rung_is_ruled_out_or_fails_the_sentence_says_which():
    """MISSION G2: nothing was scored on the whole gold set, so nothing is ranked or shipped, and the reason is not that scoring failed."""
    climb = Ascent("label.accuracy >= 0.95", 200)
    climb.screened_out("prompt", Metric(name="label.accuracy", value=0.1, n=25, low=0.0, high=0.3), "known after 25 of 200 rows")
    found = climb.conclude()
    assert (found.decision, found.ship) == ("not_reached", "")
    assert (
        found.reason
        == 'No rung reaches "label.accuracy >= 0.95": prompt ruled out before all 200 gold rows were asked. Bring rows, a larger model or a lower bar.'
    )
    climb.failed("lora", "out of memory")
    assert "prompt ruled out before all 200 gold rows were asked; lora failed." in climb.conclude().reason
