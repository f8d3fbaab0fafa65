"""Held-out preference accuracy by the implicit reward."""

from __future__ import annotations

import random

import pytest

from planish.errors import InputError
from planish.evidence import pair_accuracy as evidence
from planish.evidence.paired import compare
from planish.evidence.statistic import row_values
from planish.rows import Message, Sample
from planish.scorers import pair_accuracy
from planish.scores import EvalReport, Score

PAIR = ((Message(role="assistant", content="yes"),), (Message(role="assistant", content="no"),))


def _sample(number: int) -> Sample:
    return Sample(id=f"r{number}", messages=(Message(role="user", content="?"),), target="yes", pair=PAIR)


def test_e1_p2_the_margin_is_measured_against_the_base() -> None:
    """MISSION E1, preference; P2 Ex: (-10 vs -11, -14 vs -13): (-10 + 11) - (-14 + 13) = 2 nats, which beta .1 makes .2: right. The likelier text of (-20, -15) is
    the worse answer, yet it gained: (-20 + 25) - (-15 + 15) = 5: right by reward, wrong by likelihood. Equal margins are half a right one. The mean margin is (2 + 5 + 0) / 3."""
    right = pair_accuracy.score(_sample(0), (-10.0, -14.0, -11.0, -13.0))
    assert (right.value, right.detail["margin"], 0.1 * right.detail["margin"]) == (1.0, 2.0, pytest.approx(0.2))
    longer = pair_accuracy.score(_sample(1), (-20.0, -15.0, -25.0, -15.0))
    assert (longer.value, longer.detail["likelihood_accuracy"]) == (1.0, 0.0)
    tie = pair_accuracy.score(_sample(2), (-3.0, -5.0, -3.0, -5.0))
    assert (tie.value, tie.detail["likelihood_accuracy"]) == (0.5, 1.0)
    found = pair_accuracy.metrics([right, longer, tie], ())
    assert found["accuracy"].value == pytest.approx(2.5 / 3)
    assert found["likelihood_accuracy"].value == pytest.approx(2 / 3)
    assert found["margin"].value == pytest.approx(7 / 3)


def test_a_margin_of_nats_is_no_share() -> None:
    """The base gains 0 nats on each of 40 pairs: that is known, [0, 0]. As a share of 40 rows it would be Wilson's [0, .088], of a figure that is none; its accuracy is .5."""
    found = pair_accuracy.metrics([pair_accuracy.score(_sample(number), (-3.0, -5.0, -3.0, -5.0)) for number in range(40)], (), resamples=100)
    assert (found["margin"].low, found["margin"].high, found["margin"].method) == (0.0, 0.0, "bootstrap 100")
    assert (found["accuracy"].low, found["accuracy"].high) == (0.5, 0.5)
    assert found["likelihood_accuracy"].method == "wilson"


def test_it_is_the_accuracy_of_the_evidence() -> None:
    """1,000 random pairs, a tenth of them ties: the same share as `evidence.pair_accuracy` of the margins."""
    draw = random.Random(0)
    told = [tuple(-draw.uniform(1, 50) for _ in range(4)) for _ in range(900)] + [(-1.0, -2.0, -1.0, -2.0)] * 100
    scores = [pair_accuracy.score(_sample(number), one) for number, one in enumerate(told)]
    expected = evidence.pair_accuracy([score.detail["margin"] for score in scores], [0.0] * len(scores)).all.value
    assert pair_accuracy.metrics(scores, (), resamples=100)["accuracy"].value == pytest.approx(expected)


def test_p4_a_reward_models_rewards() -> None:
    """MISSION P4 Ex: a difference of 1 is P = .731, right; none is .5, half right. There is no likelihood to report. Three words against one: 2 longer."""
    long = _sample(0).model_copy(update={"pair": ((Message(role="assistant", content="yes it is"),), PAIR[1])})
    right, tie = pair_accuracy.score(long, (1.5, 0.5)), pair_accuracy.score(_sample(1), (0.2, 0.2))
    assert (right.value, right.detail["probability"], right.detail["longer"]) == (1.0, pytest.approx(0.731, abs=5e-4), 2.0)
    assert (tie.value, tie.detail["probability"]) == (0.5, 0.5)
    found = pair_accuracy.metrics([right, tie], (), resamples=100)
    assert found.keys() == {"accuracy", "margin"}
    assert (found["accuracy"].value, found["margin"].value) == (0.75, 0.5)
    with pytest.raises(InputError, match="its rewards are nan"):
        pair_accuracy.score(_sample(0), (float("nan"), 1.0))


def test_e1_an_answer_that_was_judged_gains_or_loses_on_the_base() -> None:
    """MISSION E1: a good answer at -10, the base's -14, gained 4 nats: right; a bad one at -10, the base's -11, gained as well: wrong, by 1. What changed nothing is half
    right. Each kind counts half: (1.5 / 2 + 0) / 2 right, (4 / 2 - 1) / 2 nats."""
    judged = [_sample(number).model_copy(update={"pair": None, "judged": (PAIR[number % 2], number != 1)}) for number in range(3)]
    scores = [pair_accuracy.score(sample, told) for sample, told in zip(judged, [(-10.0, -14.0), (-10.0, -11.0), (-2.0, -2.0)], strict=True)]
    parts = [sum(score.detail[f"{kind}_margin.part"] for kind in ("good", "bad")) for score in scores]
    assert list(zip([score.value for score in scores], parts, strict=True)) == [(1.0, 4.0), (0.0, -1.0), (0.5, 0.0)]
    found = pair_accuracy.metrics(scores, (), resamples=100)
    assert {name: metric.value for name, metric in found.items()} == {"accuracy": 0.375, "margin": 0.5, "good_accuracy": 0.75, "bad_accuracy": 0.0}
    with pytest.raises(InputError, match="a reward model rates pairs"):
        pair_accuracy.score(judged[0], (-10.0,))


def _answers(good: int, bad: int) -> list[Sample]:
    return [_sample(number).model_copy(update={"pair": None, "judged": (PAIR[0], number < good)}) for number in range(good + bad)]


def _lowered(good: int, bad: int, *, right: int = 0) -> list[Score]:
    """Answers that all became less likely by 2 nats, but for `right` good ones that gained."""
    return [pair_accuracy.score(sample, (-2.0 if number < right else -6.0, -4.0)) for number, sample in enumerate(_answers(good, bad))]


def test_a_model_that_lowers_every_answer_is_no_better_than_its_base() -> None:
    """3 good answers and 77 bad ones, all less likely by 2 nats: 77 of 80 rows are right, and nothing was learnt of which. Each kind counts half: (0 / 3 + 77 / 77) / 2 = .5,
    and the margin (-2 + 2) / 2 = 0. With Wilson's [0, .5615] of 0 of 3 and [.9525, 1] of 77 of 77: .5 - .0475 / 2 = .4763 to .5 + .5615 / 2 = .7808."""
    found = pair_accuracy.metrics(_lowered(3, 77), (), resamples=200)
    assert {name: metric.value for name, metric in found.items()} == {"accuracy": 0.5, "margin": 0.0, "good_accuracy": 0.0, "bad_accuracy": 1.0}
    assert (found["accuracy"].low, found["accuracy"].high) == (pytest.approx(0.4763, abs=1e-4), pytest.approx(0.7808, abs=1e-4))
    assert {name: metric.n for name, metric in found.items()} == {"accuracy": 80, "margin": 80, "good_accuracy": 3, "bad_accuracy": 77}


def test_three_good_answers_are_few_however_many_bad_ones_there_are() -> None:
    """All of 3 good and 77 bad ones right, on a base of .5: 1 - sqrt((.5615 / 2)^2 + (.0475 / 2)^2) = .7182, less .5."""
    base = [pair_accuracy.score(sample, (-4.0, -4.0)) for sample in _answers(3, 77)]
    reports = [
        EvalReport(
            system=name, gold="g", seconds=0.0, scores=rows, metrics={"pair_accuracy.accuracy": pair_accuracy.metrics(rows, (), resamples=50)["accuracy"]}
        )
        for name, rows in (("tuned", _lowered(3, 77, right=3)), ("base", base))
    ]
    found = compare(*reports, "pair_accuracy.accuracy", resamples=200)
    assert found.difference == 0.5
    assert (found.low, found.high) == (pytest.approx(0.2182, abs=1e-4), 0.5)
    assert compare(*reversed(reports), "pair_accuracy.accuracy", resamples=200).high == pytest.approx(-0.2182, abs=1e-4)


def test_a_judged_row_s_margin_is_its_own() -> None:
    """A good answer that gained 2 nats, a good and a bad one that lost 2: the margins 2, -2 and 2, whether each is right or not."""
    rows = _lowered(2, 1, right=1)
    found = pair_accuracy.metrics(rows, (), resamples=50)
    assert found["margin"].value == 1.0  # (0 + 2) / 2
    report = EvalReport(system="tuned", gold="g", seconds=0.0, scores=rows, metrics={"pair_accuracy.margin": found["margin"]})
    assert row_values(report, "pair_accuracy.margin").tolist() == [2.0, -2.0, 2.0]


@pytest.mark.parametrize(("good", "bad", "said"), [(5, 0, "are good, so a model that raises"), (0, 5, "are bad, so a model that lowers")])
def test_gold_of_one_kind_tells_nothing(good: int, bad: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        pair_accuracy.metrics(_lowered(good, bad), ())


@pytest.mark.parametrize("answer", [None, "yes", (-1.0, -2.0, -3.0), (-1.0, -2.0, 0.5, -1.0), (float("nan"), -1.0, -1.0, -1.0)])
def test_what_are_no_log_probabilities_is_refused(answer: object) -> None:
    with pytest.raises(InputError, match="r0"):
        pair_accuracy.score(_sample(0), answer)  # type: ignore[arg-type]


def test_a_row_that_is_no_pair_is_refused() -> None:
    with pytest.raises(InputError, match="is no pair"):
        pair_accuracy.score(_sample(0).model_copy(update={"pair": None}), (-1.0, -1.0, -1.0, -1.0))
