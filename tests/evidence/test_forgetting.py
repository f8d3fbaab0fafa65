"""The forgetting guard: the verdict, its intervals, how often it is right, and the remedies as changes of the recipe."""

from __future__ import annotations

import numpy as np
import pytest

from planish.errors import InputError
from planish.evidence.forgetting import DELTA, Trained, judge, lines, pooled, remedies
from planish.recipe_train import TrainSection
from planish.scores import Comparison, EvalReport, Metric, Score

TRAINED = Trained("train[0]", "lora", {"r": 16}, 2e-4, 120, 3.0, "epochs", 3.0, 0.0)


def choices(system: str, values: list[float], suite: str = "reasoning") -> EvalReport:
    """A report of one suite of right and wrong choices."""
    name = f"general.{suite}.accuracy"
    scores = [Score(id=f"{suite}-{place}", answer="", parsed="", target="", value=value, detail={name: value}) for place, value in enumerate(values)]
    return EvalReport(system=system, gold="g", metrics={name: Metric(name=name, value=float(np.mean(values)), n=len(values))}, scores=scores)


def together(*reports: EvalReport) -> EvalReport:
    metrics = {name: metric for report in reports for name, metric in report.metrics.items()}
    return reports[0].model_copy(update={"metrics": metrics, "scores": [score for report in reports for score in report.scores]})


def texts(system: str, correct: list[int], tokens: int) -> EvalReport:
    """A report of one suite of texts of `tokens` tokens each."""
    name = "general.held_out_text.next_token_accuracy"
    part = {f"{name}.whole": float(tokens), "tokens": float(tokens), "nll": 1.0}
    scores = [
        Score(
            id=f"text-{place}",
            answer=None,
            parsed=None,
            target="",
            value=right / tokens,
            detail={f"{name}.part": float(right), "correct": float(right), **part},
        )
        for place, right in enumerate(correct)
    ]
    return EvalReport(system=system, gold="g", metrics={name: Metric(name=name, value=sum(correct) / tokens / len(correct), n=len(correct))}, scores=scores)


def gain(low: float = 0.03, difference: float = 0.08, high: float = 0.13) -> Comparison:
    return Comparison(metric="label.accuracy", candidate="lora", reference="prompt", difference=difference, low=low, high=high, n=400)


def flipped(n: int, better: int, worse: int) -> tuple[EvalReport, EvalReport]:
    """Base and tuned on `n` questions, of which the tuned one has `better` more right and `worse` more wrong."""
    base = [0.0] * better + [1.0] * (n - better)
    tuned = [1.0] * better + [0.0] * worse + [1.0] * (n - better - worse)
    return choices("base", base), choices("lora", tuned)


def test_c4_a_general_drop_of_2_with_an_interval_from_minus_5_to_plus_1_is_not_cleared() -> None:
    """C4 Ex: task +8, general -2 with CI [-5, +1] -> not cleared.

    By hand: 400 rows, 15 better and 23 worse: -8/400 = -.02; sd = sqrt((38/400 - .02^2)/400) = .01538; -.02 -+ 1.96 x .01538 = [-.0501, +.0101]."""
    found = judge(gain(), *flipped(400, 15, 23), remedies=remedies(TRAINED, "base", "tuned"))
    assert (found.task.difference, found.general.difference) == (0.08, pytest.approx(-0.02))
    assert (found.general.low, found.general.high) == (pytest.approx(-0.0501, abs=0.003), pytest.approx(0.0101, abs=0.003))
    assert (found.outcome, found.cleared) == ("not_cleared", False)
    assert "a drop of 3 points is not excluded" in found.sentence
    assert "First: train[0].learning_rate: 0.0001" in found.sentence


def test_c4_fewer_than_200_general_rows_cannot_clear_3_points() -> None:
    """C4 Bad. Tango's interval of no change on 199 rows is -+ 3.84/(199 + 3.84) = .019, inside 3 points, and it is said to be too few all the same."""
    same = flipped(199, 0, 0)
    found = judge(gain(), *same)
    assert found.outcome == "too_few_rows"
    assert "199 general rows cannot clear 3 points" in found.sentence
    assert judge(gain(), *flipped(200, 0, 0)).cleared


def test_a_gain_that_is_not_proven_is_no_pass() -> None:
    assert judge(gain(low=-0.01), *flipped(400, 0, 0)).outcome == "no_gain"


def test_a_suite_that_fell_outside_noise_is_named_though_the_mean_is_kept() -> None:
    """Three suites stand still and one of 200 rows loses 20: -10 points there, -2.5 in the mean."""
    still = [flipped(200, 0, 0) for _ in range(3)]
    named = [tuple(choices(report.system, [score.value for score in report.scores], f"s{place}") for report in pair) for place, pair in enumerate(still)]
    fell = flipped(200, 0, 20)
    base, tuned = (together(*(pair[side] for pair in [*named, fell])) for side in (0, 1))
    found = judge(gain(), base, tuned)
    assert found.general.difference == pytest.approx(-0.025)
    assert (found.outcome, found.lost) == ("forgot", ["general.reasoning.accuracy"])
    assert "reasoning fell by 3 points or more" in found.sentence
    assert len(lines(found)) == 1 + 4


def test_suites_count_alike_whatever_their_tokens() -> None:
    """200 texts of 100 tokens lose 2 of each, 200 questions lose none: (-.02 + 0) / 2 = -.01."""
    base = together(texts("base", [50] * 200, 100), flipped(200, 0, 0)[0])
    tuned = together(texts("lora", [48] * 200, 100), flipped(200, 0, 0)[1])
    found = pooled(base, tuned)
    assert found.difference == pytest.approx(-0.01)
    assert found.n == 400
    assert found.low == pytest.approx(found.high) == pytest.approx(-0.01)  # every row lost the same


def test_c4_an_untouched_model_passes_95_of_100_and_one_at_the_margin_does_not() -> None:
    """C4 Proof, by simulation: 200 texts of 60 tokens and 200 questions. Untouched: one token of 500 flips (the noise of another batch). At the margin: tokens are
    lost at 3 points, and so are answers; a two-sided 95 % interval clears that 2.5 % of the time, 5.5 % at most with 200 runs (binomial, 99 %)."""
    rng = np.random.default_rng(5)
    runs, cleared = 200, {"untouched": 0, "margin": 0}
    for _ in range(runs):
        right = rng.binomial(60, 0.4, 200)
        answers = (rng.random(200) < 0.6).astype(float)
        for name, lose, win in (("untouched", 0.002, 0.002), ("margin", 0.075 + 0.002, 0.002)):
            tokens = right - rng.binomial(right, lose) + rng.binomial(60 - right, win)
            moved = rng.random(200)
            said = answers if name == "untouched" else np.where((answers == 1) & (moved < 0.05), 0.0, answers)
            base = together(texts("base", right.tolist(), 60), choices("base", answers.tolist()))
            tuned = together(texts("lora", tokens.tolist(), 60), choices("lora", said.tolist()))
            cleared[name] += judge(gain(), base, tuned, resamples=300).cleared
    assert cleared["untouched"] >= 0.95 * runs
    assert cleared["margin"] <= 0.055 * runs


def test_c4_remedies_are_ranked_and_are_changes_of_the_recipe() -> None:
    """Lower learning rate, lower rank, replay, fewer epochs, merge with the base; each value is half of the run's, and replay C5's default."""
    found = remedies(TRAINED, "base", "tuned")
    assert [(one.key, one.now, one.value) for one in found[:4]] == [
        ("train[0].learning_rate", 2e-4, 1e-4),
        ("train[0].adapter", {"lora": {"r": 16}}, {"lora": {"r": 8}}),
        ("train[0].replay", None, {"share": 0.1}),
        ("train[0].epochs", 3.0, 1.5),
    ]
    changed = {one.key.removeprefix("train[0]."): one.value for one in found[:4]}
    section = TrainSection.model_validate({"objective": "sft", **changed})
    assert (section.learning_rate, section.adapter.options, section.epochs) == (1e-4, {"r": 8}, 1.5)
    assert section.replay is not None
    assert (section.replay.share, section.replay.rows) == (0.1, "general")
    assert [source["weight"] for source in found[4].value["models"]] == [0.5, 0.5]


def test_a_merge_that_is_offered_can_be_read() -> None:
    from planish.model.merging import read_spec

    assert read_spec(remedies(TRAINED, "base", "tuned")[-1].value).technique == "soup"


def test_full_tuning_is_told_to_take_an_adapter_and_replay_is_doubled_to_a_half_at_most() -> None:
    found = {one.key: one.value for one in remedies(TRAINED._replace(adapter="full", options={}, replay=0.2, length="max_steps", limit=90), "b", "t")}
    assert (found["train[0].adapter"], found["train[0].replay"], found["train[0].max_steps"]) == ("lora", {"share": 0.4}, 45)
    assert "train[0].replay" not in {one.key for one in remedies(TRAINED._replace(replay=0.5), "b", "t")}


def test_reports_of_other_suites_are_refused() -> None:
    base, tuned = flipped(200, 0, 0)
    with pytest.raises(InputError, match="did not measure it"):
        judge(gain(), together(base, texts("base", [1], 2)), tuned)
    with pytest.raises(InputError, match="no general suite"):
        judge(gain(), base.model_copy(update={"metrics": {}}), tuned)
    assert DELTA == 0.03
