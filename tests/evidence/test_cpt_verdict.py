"""The word on continued pretraining: the task decides, on the same gold, with its interval."""

from __future__ import annotations

import pytest

from planish.evidence.cpt_verdict import judge, lines
from planish.evidence.paired import compare
from planish.scores import Comparison, EvalReport, Metric, Score


def report(system: str, right: list[bool]) -> EvalReport:
    scores = [Score(id=str(place), answer="a", parsed="a", target="a", value=float(one)) for place, one in enumerate(right)]
    value = sum(right) / len(right)
    return EvalReport(system=system, gold="g", metrics={"label.accuracy": Metric(name="label.accuracy", value=value, n=len(right))}, scores=scores)


def reports(both: int, only_first: int, only_second: int, neither: int) -> tuple[EvalReport, EvalReport]:
    first = [True] * both + [True] * only_first + [False] * only_second + [False] * neither
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return report("lora", first), report("without_cpt", second)


def test_c3_a_point_on_400_rows_keeps_the_sft_alone() -> None:
    """C3 Ex: .81 against .80 on 400 rows, 20 rows only CPT + SFT has right and 16 only SFT: 304 + 20 = 324 and 304 + 16 = 320 of 400. Exact McNemar: two-sided binomial of 16 in
    36, p = .62; the interval of the gain reaches 0: keep the SFT alone."""
    candidate, control = reports(304, 20, 16, 60)
    gain = compare(candidate, control, "label.accuracy")
    found = judge({one.system: one.metrics["label.accuracy"] for one in (candidate, control)}, gain)
    assert [found.task[name].value for name in ("lora", "without_cpt")] == [0.81, 0.80]
    assert found.ci.p_value == pytest.approx(0.62, abs=0.005)
    assert found.verdict == "no_benefit"
    assert "p = 0.62 on 400 rows" in found.sentence
    assert found.sentence.endswith("keep without_cpt.")


def test_c1_a_domain_that_fell_and_a_gold_that_did_not_is_no_benefit() -> None:
    """C1 Ex: domain perplexity 18 -> 11 and gold unchanged: "no benefit", whatever its own loss says."""
    candidate, base = reports(300, 0, 0, 100)
    change = Comparison(metric="general.domain.loss", candidate="1-cpt", reference="base", difference=-0.49, low=-0.55, high=-0.43, n=200)
    found = judge(
        {"base": base.metrics["label.accuracy"], "lora": candidate.metrics["label.accuracy"]},
        compare(candidate, base.model_copy(update={"system": "base"}), "label.accuracy"),
        domain={"base": Metric(name="perplexity", value=18.0, n=200), "1-cpt": Metric(name="perplexity", value=11.0, n=200)},
        domain_change=change,
    )
    assert found.verdict == "no_benefit"
    assert found.sentence.startswith("CPT was not your problem: no benefit")
    assert "domain perplexity 18 -> 11; keep base." in found.sentence
    assert lines(found)[0] == found.sentence


@pytest.mark.parametrize(("only_first", "only_second", "verdict", "then"), [(60, 10, "helped", "keep CPT."), (10, 60, "harmed", "keep without_cpt.")])
def test_c3_an_interval_on_one_side_decides(only_first: int, only_second: int, verdict: str, then: str) -> None:
    """C3 Not: unless CPT + SFT beats SFT with an interval above 0."""
    candidate, control = reports(280, only_first, only_second, 50)
    found = judge({"lora": candidate.metrics["label.accuracy"]}, compare(candidate, control, "label.accuracy"))
    assert found.verdict == verdict
    assert found.sentence.endswith(then)


def test_lower_is_better_is_turned_round() -> None:
    metric = Metric(name="perplexity.perplexity", value=10.0, n=100, higher_is_better=False)
    fell = Comparison(metric="perplexity.perplexity", candidate="lora", reference="without_cpt", difference=-2.0, low=-3.0, high=-1.0, n=100)
    assert judge({"lora": metric}, fell).verdict == "helped"


def test_a_domain_whose_loss_is_not_proven_to_fall_is_said() -> None:
    candidate, control = reports(300, 5, 5, 90)
    figures = {name: Metric(name="perplexity", value=value, n=20) for name, value in (("base", 18.0), ("1-cpt", 17.9))}
    change = Comparison(metric="general.domain.loss", candidate="1-cpt", reference="base", difference=-0.01, low=-0.1, high=0.08, n=20)
    found = judge({"lora": candidate.metrics["label.accuracy"]}, compare(candidate, control, "label.accuracy"), domain=figures, domain_change=change)
    assert "18 -> 17.9, which is no proven fall" in found.sentence
