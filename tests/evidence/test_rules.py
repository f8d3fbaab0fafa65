import pytest

from planish.errors import InputError
from planish.evidence.facts import ReportFacts
from planish.rules import decide, parse
from planish.scores import Comparison, Metric


class Known:
    """Facts given as numbers: metrics by name, one interval for every comparison, one-sided bounds at the metric's ends."""

    def __init__(self, metrics, difference=(0.0, 0.0, 0.0)):
        self.metrics, self.difference = metrics, difference

    def metric(self, name):
        return self.metrics.get(name)

    def names(self):
        return list(self.metrics)

    def comparison(self, metric, reference):
        point, low, high = self.difference
        return Comparison(metric=metric, candidate=metric, reference=reference, difference=point, low=low, high=high, n=400)

    def bound(self, name, side):
        return self.metrics[name].low if side == "lower" else self.metrics[name].high


@pytest.mark.parametrize(
    ("text", "metric", "operator", "reference", "offset"),
    [
        ("label.macro_f1 > best_baseline.label.macro_f1", "label.macro_f1", ">", "best_baseline.label.macro_f1", 0.0),
        (
            "general.next_token_accuracy >= base.general.next_token_accuracy - 0.03",
            "general.next_token_accuracy",
            ">=",
            "base.general.next_token_accuracy",
            -0.03,
        ),
        ("label.accuracy>best_baseline.label.accuracy+.02", "label.accuracy", ">", "best_baseline.label.accuracy", 0.02),
        ("quality_retained >= 0.97", "quality_retained", ">=", None, 0.97),
        ("latency_ms < 1e2", "latency_ms", "<", None, 100.0),
        ("margin <= -0.5", "margin", "<=", None, -0.5),
        ("label.f1.card-arrival >= .9", "label.f1.card-arrival", ">=", None, 0.9),
    ],
)
def test_parse(text, metric, operator, reference, offset):
    rule = parse(text)
    assert (rule.metric, rule.operator, rule.reference, rule.offset) == (metric, operator, reference, offset)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("label.accuracy", "no comparison follows"),
        ("label.accuracy >=", "nothing follows"),
        ("label.accuracy == 0.9", "no comparison here"),
        ("label.accuracy => 0.9", "no comparison here"),
        ("0.9 <= label.accuracy", "starts with a number"),
        ("0.8 < label.accuracy < 0.9", "starts with a number"),
        ("a.x > 0.8 > 0.9", "compares twice"),
        ("label.accuracy >= base.label.accuracy * 2", 'cannot read "\\*"'),
        ("label.accuracy >= base.label.accuracy - x", "cannot read"),
        ("label.accuracy >= 0.9 and label.parse_rate >= 0.9", "compares twice"),
        ("label.accuracy >= 90%", 'cannot read "%"'),
        ("__import__('os').system('true') > 0", "cannot read"),
        ("> 0.9", 'starts with ">"'),
        ("label.accuracy > base.label.macro_f1", "different metrics"),
        ("label.accuracy > label.accuracy", "different metrics"),
        ("label.accuracy >= 0.9.1", "cannot read"),
    ],
)
def test_parse_says_what_is_wrong(text, why):
    with pytest.raises(InputError, match=why) as refused:
        parse(text, where="gate[0]")
    assert refused.value.problems[0].where == "gate[0]"
    assert refused.value.problems[0].fix


@pytest.mark.parametrize(
    ("text", "interval", "outcome"),
    [
        ("x.a > base.x.a", (0.03, 0.01, 0.05), "pass"),
        ("x.a > base.x.a", (0.03, -0.01, 0.07), "undecided"),
        ("x.a > base.x.a", (0.03, 0.0, 0.07), "undecided"),
        ("x.a > base.x.a", (-0.03, -0.05, 0.0), "fail"),
        ("x.a >= base.x.a", (0.0, 0.0, 0.0), "pass"),
        ("x.a > base.x.a", (0.0, 0.0, 0.0), "fail"),
        ("x.a >= base.x.a - 0.03", (-0.02, -0.05, 0.01), "undecided"),
        ("x.a >= base.x.a - 0.03", (-0.01, -0.025, 0.005), "pass"),
        ("x.a >= base.x.a - 0.03", (-0.06, -0.08, -0.04), "fail"),
        ("x.a > base.x.a + 0.02", (0.03, 0.01, 0.05), "undecided"),
        ("x.a <= base.x.a + 0.02", (0.01, -0.01, 0.02), "pass"),
        ("x.a < base.x.a", (-0.03, -0.05, -0.01), "pass"),
        ("x.a < base.x.a", (0.03, 0.01, 0.05), "fail"),
    ],
)
def test_two_metrics_compare_by_the_paired_interval(text, interval, outcome, figure):
    """C4 Ex: general -2 with CI [-5, +1] does not clear a margin of 3 points. The whole interval decides, never the point."""
    facts = Known({"x.a": figure("a", 0.9), "base.x.a": figure("a", 0.9)}, interval)
    result = decide(parse(text), facts)
    assert (result.outcome, result.passed) == (outcome, outcome == "pass")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [("x.a >= 0.85", "pass"), ("x.a >= 0.9", "undecided"), ("x.a > 0.96", "fail"), ("x.a <= 0.95", "pass"), ("x.a < 0.8", "fail"), ("x.a < 0.9", "undecided")],
)
def test_a_constant_compares_by_the_one_sided_bound(text, outcome, figure):
    assert decide(parse(text), Known({"x.a": figure("a", 0.91, 0.86, 0.94)})).outcome == outcome


def test_a_missing_metric_fails_and_says_so(figure):
    facts = Known({"label.accuracy": figure("accuracy", 0.99, 0.98, 1.0)})
    result = decide(parse("label.acuracy >= 0.1"), facts)
    assert result.outcome == "fail"
    assert 'not measured; did you mean "label.accuracy"?' in result.why
    assert "base.label.accuracy was not measured" in decide(parse("label.accuracy >= base.label.accuracy"), facts).why


def test_an_undefined_metric_fails(figure):
    assert "undefined" in decide(parse("x.a >= 0"), Known({"x.a": figure("a", float("nan"))})).why


def test_facts_from_reports(report, figure):
    ours, weak, strong = report("lora", [True] * 95 + [False] * 5), report("majority", [True] * 50 + [False] * 50), report("prompt", [True] * 70 + [False] * 30)
    retained = {"quality_retained": figure("quality_retained", 0.99, 0.975, 1.01)}
    facts = ReportFacts([ours], [weak, strong], figures=retained)
    assert facts.metric("best_baseline.label.accuracy").value == pytest.approx(0.70)
    assert facts.metric("majority.label.accuracy").value == pytest.approx(0.50)
    assert facts.metric("base.label.accuracy") is None
    assert facts.comparison("label.macro_f1", "best_baseline.label.macro_f1").reference == "prompt"
    assert decide(parse("label.macro_f1 > best_baseline.label.macro_f1 + 0.02"), facts).passed
    assert decide(parse("quality_retained >= 0.97"), facts).passed
    assert not decide(parse("quality_retained >= 0.98"), facts).passed
    assert not decide(parse("label.macro_f1 > base.label.macro_f1"), facts).passed
    assert "best_baseline.label.accuracy" in facts.names()


def test_the_bound_of_a_share_is_the_one_sided_wilson(report):
    """95 of 100: z = 1.645, centre (.95 + 2.706/200)/1.02706 = .9381, half 1.645/1.02706 sqrt(.000475 + .0000676) = .0373, lower bound .9008 (two-sided .888).
    So `accuracy >= 0.9` passes."""
    facts = ReportFacts([report("lora", [True] * 95 + [False] * 5)])
    assert facts.bound("label.accuracy", "lower") == pytest.approx(0.9008, abs=1e-3)
    assert decide(parse("label.accuracy >= 0.9"), facts).passed
    assert facts.metric("label.macro_f1").low < facts.bound("label.macro_f1", "lower") < facts.metric("label.macro_f1").value


def test_figures_that_are_no_samples_subtract_exactly(report, figure):
    ours = report("q4", [True] * 40, figures={"file.bytes": figure("bytes", 90.0, n=1, higher_is_better=False)})
    base = report("base", [True] * 40, figures={"file.bytes": figure("bytes", 270.0, n=1, higher_is_better=False)})
    facts = ReportFacts([ours], base=[base])
    assert decide(parse("file.bytes < base.file.bytes"), facts).passed
    assert decide(parse("file.bytes <= 90"), facts).passed


def test_rules_import_without_scipy_or_numpy():
    import subprocess
    import sys

    code = "import sys, planish.rules; sys.exit(any(name in sys.modules for name in ('scipy', 'numpy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_result_says_of_what_it_is_a_sample():
    """kl is a mean over tokens, resampled by sequence; bytes are no sample at all; accuracy is one of rows."""
    kl = Metric(name="kl", value=0.102, n=6455, low=0.1, high=0.104, lower=0.101, upper=0.103, method="bootstrap 2000 over 60 sequences")
    known = {"kl": kl, "bytes": Metric(name="bytes", value=184320, n=1), "x.a": Metric(name="x.a", value=0.5, n=40, low=0.35, high=0.65)}
    facts = Known(known)
    facts.bound = lambda name, side: {"kl": 0.103, "bytes": 184320, "x.a": 0.38}[name]
    said = [decide(parse(rule), facts).why for rule in ("kl < 0.05", "bytes < 2e8", "x.a >= 0.3")]
    assert said[0].startswith("0.102 on 6455 tokens (bootstrap 2000 over 60 sequences), one-sided 95 % upper bound 0.103, required < 0.05")
    assert said[1] == "184,320, required < 2e+08"
    assert said[2] == "0.500 on 40 rows, one-sided 95 % lower bound 0.380, required >= 0.3"
