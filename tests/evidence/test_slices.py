import pytest

from planish.errors import InputError
from planish.evidence.slices import by_slice, confusions, losses
from planish.rows import Message, Sample


def _samples(slices):
    return [Sample(id=f"r{i}", messages=(Message(role="user", content="x"),), target="yes", slices=one) for i, one in enumerate(slices)]


def test_e7_a_planted_bad_slice_is_first(report):
    """E7 Ex: about .91 overall, 25 of 40 right in one slice: Wilson [.47, .76]; 10 rows of another are thin and come last although worse."""
    right = [True] * 340 + [False] * 10 + [True] * 25 + [False] * 15 + [False] * 10
    names = ["en"] * 350 + ["de"] * 40 + ["fr"] * 10
    found = by_slice(report("lora", right), _samples([{"language": name} for name in names]), "language")
    assert [(slice_.value, slice_.thin) for slice_ in found] == [("de", False), ("en", False), ("fr", True)]
    assert (found[0].metric.low, found[0].metric.high) == pytest.approx((0.470, 0.758), abs=1e-3)
    assert found[0].metric.n == 40


def test_a_missing_slice_key_is_refused(report):
    with pytest.raises(InputError, match="known: language"):
        by_slice(report("lora", [True] * 2), _samples([{"language": "en"}] * 2), "langauge")
    with pytest.raises(InputError, match="the first r1"):
        by_slice(report("lora", [True] * 2), _samples([{"language": "en"}]), "language")


def test_rows_the_baseline_had_right_are_listed(report):
    found = losses(report("lora", [True, False, False, True]), report("prompt", [True, True, False, False]))
    assert [(loss.id, loss.target, loss.answer, loss.baseline_answer) for loss in found] == [("r1", "no", "yes", "no")]


def test_commonest_confusions(report):
    assert confusions(report("lora", [False, True, False, False])) == [("yes", "no", 2), ("no", "yes", 1)]
