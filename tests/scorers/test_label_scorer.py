import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from planish.errors import InputError
from planish.evidence.paired import compare
from planish.rows import Message, Sample
from planish.scorers.label import confusion, metrics, score
from planish.scores import EvalReport

LABELS = ("billing", "card arrival", "other")


def _sample(target, position=0):
    return Sample(id=f"r{position}", messages=(Message(role="user", content="x"),), target=target)


@pytest.mark.parametrize("answer", ["positive", " Positive.\n", '"positive"', "**POSITIVE**", "positive!", "“positive”"])
def test_reads_the_whole_answer(answer):
    found = score(_sample("positive"), answer)
    assert (found.value, found.parsed) == (1.0, "positive")


@pytest.mark.parametrize("answer", ["not positive", "positive or negative", "Label: positive", "positives", "", "   ", None, "..."])
def test_never_a_substring(answer):
    found = score(_sample("positive"), answer)
    assert found.value == 0.0
    assert found.parsed is None or found.parsed == (answer or "").strip(" ")


def test_case_can_matter_and_composed_letters_do_not():
    assert score(_sample("Positive"), "positive", case_sensitive=True).value == 0.0
    assert score(_sample("café"), "café").value == 1.0
    assert score(_sample("C++"), "C++").value == 1.0
    assert score(_sample("C"), "C++").value == 0.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "rubbish", None])), min_size=1, max_size=40))
def test_e1_agrees_with_scikit_learn(pairs):
    """E1: macro, micro and per-class F1 over the declared labels, an answer that is no label counted wrong."""
    scores = [score(_sample(target, i), answer) for i, (target, answer) in enumerate(pairs)]
    found = metrics(scores, LABELS, resamples=50)
    targets, answers = [target for target, _ in pairs], [answer or "" for _, answer in pairs]
    oracle = {average: f1_score(targets, answers, labels=LABELS, average=average, zero_division=0) for average in ("macro", "micro", None)}
    assert found["macro_f1"].value == pytest.approx(oracle["macro"], abs=1e-12)
    assert found["micro_f1"].value == pytest.approx(oracle["micro"], abs=1e-12)
    assert [found[f"f1.{label}"].value for label in LABELS] == pytest.approx(list(oracle[None]), abs=1e-12)
    assert found["accuracy"].value == pytest.approx(accuracy_score(targets, answers))
    assert found["parse_rate"].value == pytest.approx(np.mean([answer in LABELS for answer in answers]))
    assert (confusion(scores, LABELS)[:, :3] == confusion_matrix(targets, answers, labels=[*LABELS, "rubbish", ""])[:3, :3]).all()
    assert confusion(scores, LABELS).sum() == len(pairs)


def test_every_metric_carries_its_interval():
    """90 of 100 right: accuracy [.826, .945] by Wilson (E4 Ex)."""
    scores = [score(_sample("billing" if i % 2 else "other", i), "rubbish" if i < 10 else "billing" if i % 2 else "other") for i in range(100)]
    found = metrics(scores, ("billing", "other"))
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx((0.826, 0.945), abs=5e-4)
    assert (found["accuracy"].method, found["macro_f1"].method) == ("wilson", "bootstrap 10000")
    assert found["macro_f1"].low < found["macro_f1"].value < found["macro_f1"].high
    clustered = metrics(scores, ("billing", "other"), groups={f"r{i}": f"g{i // 10}" for i in range(100)}, resamples=2000)
    assert clustered["accuracy"].method == "cluster bootstrap 2000"
    assert clustered["accuracy"].low < found["accuracy"].low


def test_compare_takes_the_declared_labels_from_the_report():
    """A declared label that no row has counts 0 in macro-F1, in the report and in the paired test alike: two labels at F1 1 and one at 0 make .667."""
    scores = [score(_sample(LABELS[i % 2], i), LABELS[i % 2]) for i in range(40)]
    report = EvalReport(system="a", gold="g", metrics={f"label.{name}": one for name, one in metrics(scores, LABELS, resamples=50).items()}, scores=scores)
    assert report.metrics["label.macro_f1"].value == pytest.approx(2 / 3)
    assert compare(report, report.model_copy(update={"system": "b"}), "label.macro_f1").difference == 0.0
    assert compare(report, report, "label.f1.card arrival", resamples=100).difference == 0.0


def test_refusals():
    with pytest.raises(InputError, match="no scores"):
        metrics([], LABELS)
    with pytest.raises(InputError, match="not a declared label"):
        metrics([score(_sample("fraud"), "fraud")], LABELS)
    with pytest.raises(InputError, match='"US" was taken for "us"'):
        metrics([score(_sample("us"), "US")], ("us", "US"))
