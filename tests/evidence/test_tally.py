"""Per-row details as metrics, and the same details as statistics: what is reported is what is paired and gated."""

from __future__ import annotations

import numpy as np
import pytest

from planish.errors import InputError
from planish.evidence import ngrams
from planish.evidence.facts import ReportFacts
from planish.evidence.intervals import wilson
from planish.evidence.paired import compare
from planish.evidence.statistic import is_row_mean, row_values, split_name, statistic
from planish.evidence.tally import corpus, errors_seen, require_references, tally
from planish.rules import decide, parse
from planish.scores import EvalReport, Score


def _row(number: int, value: float = 0.0, **detail: float) -> Score:
    return Score(id=f"r{number}", answer="x", parsed="x", target="t", value=value, detail={key.replace("_of_", "."): item for key, item in detail.items()})


def _report(system: str, scores: list[Score], names: tuple[str, ...]) -> EvalReport:
    return EvalReport(system=system, gold="g", metrics={f"s.{name}": one for name, one in tally(scores, names, resamples=500).items()}, scores=scores)


def test_three_forms_by_hand() -> None:
    """Mean of 1, 0, .5 is .5; micro (1 + 2 + 0)/(2 + 3 + 1) = .5, not the mean of 1/2, 2/3 and 0; the error of 1 row in 3 is 1/3."""
    rows = [
        _row(0, 1.0, f1=1.0, p_of_part=1, p_of_whole=2),
        _row(1, 0.0, f1=0.0, p_of_part=2, p_of_whole=3),
        _row(2, 0.5, f1=0.5, p_of_part=0, p_of_whole=1, error_of_odd=1),
    ]
    found = tally(rows, ("f1", "p", "score", *errors_seen(rows)), resamples=500)
    assert [found[name].value for name in ("f1", "p", "score", "error.odd")] == pytest.approx([0.5, 0.5, 0.5, 1 / 3])
    assert (found["f1"].method, found["p"].method, found["error.odd"].method) == ("bootstrap 500", "bootstrap 500", "wilson")
    assert not found["error.odd"].higher_is_better


def test_a_share_of_some_rows_takes_wilson_over_those() -> None:
    """8 of 10 rows need it, 6 of them right: .75 of n = 8, Wilson's interval of 6 of 8. Nobody needs the other: it is not measured."""
    rows = [_row(n, p_of_part=float(n < 6), p_of_whole=float(n < 8), q_of_part=0, q_of_whole=0) for n in range(10)]
    found = tally(rows, ("p", "q"))
    assert found.keys() == {"p"}
    assert (found["p"].value, found["p"].n, (found["p"].low, found["p"].high)) == (0.75, 8, tuple(wilson(6, 8)))
    assert tally(rows, ("q",)) == {}
    clustered = tally(rows, ("p",), groups={f"r{n}": f"g{n // 2}" for n in range(10)}, resamples=500)["p"]
    assert clustered.method == "cluster bootstrap 500"
    assert np.isfinite([clustered.low, clustered.high]).all()  # type: ignore[arg-type]


def test_what_is_reported_is_what_is_paired() -> None:
    rng = np.random.default_rng(0)

    def rows(skill: float) -> list[Score]:
        made = []
        for n in range(200):
            whole = int(rng.integers(0, 4))
            part = int(rng.binomial(whole, skill))
            right = float(rng.random() < skill)
            made.append(_row(n, right, accuracy=right, p_of_part=part, p_of_whole=whole, **({} if right else {"error_of_odd": 1.0})))
        return made

    names = ("accuracy", "p", "error.odd")
    good, bad = _report("good", rows(0.9), names), _report("bad", rows(0.6), names)
    for name in names:
        found = compare(good, bad, f"s.{name}", resamples=500)
        assert found.difference == pytest.approx(good.metrics[f"s.{name}"].value - bad.metrics[f"s.{name}"].value)
        assert (found.low > 0) == (name != "error.odd")
        assert is_row_mean(f"s.{name}", good) == (name != "p")
    assert "McNemar" in compare(good, bad, "s.accuracy", resamples=50).test
    assert "McNemar" not in compare(good, bad, "s.p", resamples=50).test
    assert row_values(good, "s.error.odd").sum() == 200 - row_values(good, "s.accuracy").sum()
    facts = ReportFacts([good], [bad])
    assert decide(parse("s.p > best_baseline.s.p"), facts).passed
    assert decide(parse("s.p >= 0.5"), facts).passed
    assert not decide(parse("s.missing >= 0.5"), facts).passed


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("f1.f1", ("f1", "")),
        ("f1.parse_rate", ("parse_rate", "")),
        ("extraction.f1", ("f1", "")),
        ("label.f1.card arrival", ("f1", "card arrival")),
        ("f1.billing", ("f1", "billing")),
        ("label.macro_f1", ("macro_f1", "")),
        ("perplexity.bits_per_byte", ("bits_per_byte", "")),
        ("perplexity.perplexity", ("perplexity", "")),
        ("general.perplexity", ("perplexity", "")),
        ("tool_call.error.value_error_string", ("error.value_error_string", "")),
        ("rouge.rougeL", ("rougeL", "")),
    ],
)
def test_names(metric: str, name: tuple[str, str]) -> None:
    assert split_name(metric) == name


def test_corpus_figures_resample_the_whole_set() -> None:
    """The interval of BLEU is over resampled sets, each a BLEU of its own: it equals the figure of rows drawn by hand."""
    rng = np.random.default_rng(1)
    matched = np.sort(rng.integers(0, 6, (30, 4)), axis=1)[:, ::-1]
    rows = [_row(n, **{f"bleu_of_{place}": float(count) for place, count in enumerate([9, 8, *matched[n], 9, 8, 7, 6])}) for n in range(30)]
    found = corpus("bleu", rows, resamples=400)
    report = EvalReport(system="a", gold="g", metrics={"bleu.bleu": found}, scores=rows)
    drawn = rng.integers(0, 30, 30)
    weights = np.bincount(drawn, minlength=30).astype(np.float32)[None]
    by_hand = corpus("bleu", [rows[n].model_copy(update={"id": str(place)}) for place, n in enumerate(drawn)], resamples=1)
    assert float(statistic(report, "bleu.bleu")(weights)[0]) == pytest.approx(by_hand.value)
    assert found.low < found.value < found.high  # type: ignore[operator]
    assert not is_row_mean("bleu.bleu", report)
    assert ngrams.bleu(np.zeros((1, 10))).tolist() == [0]
    assert ngrams.chrf(np.zeros((1, 18))).tolist() == [0]


def test_references_are_required_by_name() -> None:
    with pytest.raises(InputError, match="there are no scores"):
        require_references("s", [])
    with pytest.raises(InputError) as refused:
        require_references("s", [_row(0).model_copy(update={"target": " "}), _row(1), _row(2).model_copy(update={"target": ""})])
    assert [problem.where for problem in refused.value.problems] == ["r0", "r2"]
