"""Several scorers over one set of answers: every one's metrics are reported, and every one's can be paired."""

from __future__ import annotations

import pytest

from planish.data import task
from planish.errors import InputError
from planish.evidence.facts import ReportFacts
from planish.evidence.paired import compare
from planish.recipe_keys import Use
from planish.rows import Message, Sample
from planish.rules import decide, parse
from planish.scores import EvalReport
from planish.stages._gold import Gold
from planish.stages._scoring import judge

TARGETS = [f'{{"n": {n}, "who": "Ada"}}' for n in range(40)]


def _gold(targets: list[str]) -> Gold:
    samples = tuple(Sample(id=f"r{n}", messages=(Message(role="user", content="x"),), target=target) for n, target in enumerate(targets))
    return Gold(sha256="g", task=task.make("extraction"), samples=samples, texts=tuple("x" for _ in samples), groups=None)


def _report(system: str, answers: list[str | None]) -> EvalReport:
    pytest.importorskip("jsonschema")
    scorers = [Use(name="extraction"), Use(name="json_schema"), Use(name="chrf"), Use(name="exact"), Use(name="verifier", options={"kind": "exact"})]
    made = judge(system, answers, _gold(TARGETS), scorers, 0.0)
    assert made.primary == "extraction.f1"
    return made.report


def test_a_second_scorers_metrics_are_paired_by_its_own_rows() -> None:
    """Ours: 30 right, 6 with one field of two right, 4 no JSON. Theirs: all no JSON. So valid 36/40 against 0, exact 30/40 against 0, and extraction's F1
    (30*2 + 6)*2/(36*2 + 80) = .868."""
    ours = _report("ours", [*TARGETS[:30], *(text.replace("Ada", "Eve") for text in TARGETS[30:36]), *(["n/a"] * 4)])
    theirs = _report("theirs", ["n/a"] * 40)
    assert ours.metrics["extraction.f1"].value == pytest.approx(2 * 66 / 152)
    expected = {
        "json_schema.valid": 0.9,
        "exact.exact": 0.75,
        "extraction.exact": 0.75,
        "extraction.parse_rate": 0.9,
        "verifier.score": 0.75,
        "exact.parse_rate": 0,
    }
    for metric, difference in expected.items():
        assert compare(ours, theirs, metric, resamples=200).difference == pytest.approx(difference), metric
    assert compare(ours, theirs, "verifier.error.wrong", resamples=200).difference == pytest.approx(-0.75)
    assert "McNemar" in compare(ours, theirs, "json_schema.valid", resamples=50).test
    for metric in ours.metrics.keys() & theirs.metrics.keys():
        found = compare(ours, theirs, metric, resamples=50)
        assert found.difference == pytest.approx(ours.metrics[metric].value - theirs.metrics[metric].value), metric
    facts = ReportFacts([ours], [theirs])
    assert decide(parse("chrf.chrf > best_baseline.chrf.chrf"), facts).passed
    assert decide(parse("json_schema.schema_valid >= 0.7"), facts).passed


def test_every_unusable_reference_is_named_at_once() -> None:
    with pytest.raises(InputError) as refused:
        judge("ours", ["{}", "{}", "{}"], _gold(["Ada", '{"a": 1}', "3"]), [Use(name="extraction")], 0.0)
    assert [problem.where for problem in refused.value.problems] == ["r0", "r2"]
