"""Whether a student ships (MISSION S5): its target, its control, and what is refused."""

from __future__ import annotations

import pytest

from planish.errors import InputError
from planish.evidence.distilled import distilled
from planish.retained import text


@pytest.fixture
def teacher(report):
    return report("teacher", [True] * 360 + [False] * 40)


def test_s5_a_student_that_kept_enough_and_beats_its_control_ships(report, teacher):
    """S5: 356 of the teacher's 360 right answers and none besides: .89 / .90 = .989; the control has 280."""
    student, control = report("student", [True] * 356 + [False] * 44), report("sft", [True] * 280 + [False] * 120)
    found = distilled(student, teacher, control, "label.accuracy", curve=[{"metrics": {"ce": 1.0, "kd": 0.5, "coverage": 0.9}}])
    assert found.ship
    assert found.retained.value == pytest.approx(0.989, abs=5e-4)
    assert found.control_retained.value == pytest.approx(280 / 360)
    assert (found.ce, found.kd, found.coverage) == (1.0, 0.5, 0.9)
    assert found.ci[0] > 0.95


def test_s5_below_the_target_it_does_not_ship(report, teacher):
    """S5: .84 / .90 = .933, below .95."""
    student, control = report("student", [True] * 336 + [False] * 64), report("sft", [True] * 280 + [False] * 120)
    found = distilled(student, teacher, control, "label.accuracy")
    assert not found.ship
    assert found.retained.value == pytest.approx(0.933, abs=5e-4)
    assert "below the target" in found.why
    assert "as good" not in found.why


def test_s5_a_control_that_is_as_good_ships_instead(report, teacher):
    """S5, R-8: the student kept enough, and so did plain fine-tuning on the same rows."""
    student, control = report("student", [True] * 358 + [False] * 42), report("sft", [True] * 356 + [False] * 44)
    found = distilled(student, teacher, control, "label.accuracy")
    assert not found.ship
    assert "sft) is as good" in found.why


def test_the_control_is_required(report, teacher):
    with pytest.raises(InputError, match="control"):
        distilled(teacher, teacher, None, "label.accuracy")


def test_another_gold_set_is_refused(report, teacher):
    with pytest.raises(InputError, match="gold"):
        distilled(report("student", [True] * 400), teacher, report("sft", [True] * 400, gold="gold-2"), "label.accuracy")


GREEDY = {"max_new_tokens": 128, "temperature": 0.0, "constraint": None}


def test_s5_models_that_were_decoded_otherwise_are_refused_by_name(report, teacher):
    """S5: same decoding. The student sampled, the control was cut sooner: both are named with their settings, at once."""
    student, control = report("student", [True] * 356 + [False] * 44), report("sft", [True] * 280 + [False] * 120)
    ways = (GREEDY | {"temperature": 0.7}, GREEDY, GREEDY | {"temperature": 0.7, "max_new_tokens": 8})
    student, plain, control = (one.model_copy(update={"decoding": way}) for one, way in zip((student, teacher, control), ways, strict=True))
    with pytest.raises(InputError) as refused:
        distilled(student, plain, control, "label.accuracy")
    assert [problem.why for problem in refused.value.problems] == [
        "student and teacher were decoded otherwise: temperature 0.7 against 0.0",
        "student and sft were decoded otherwise: max_new_tokens 128 against 8",
    ]


def test_s5_what_is_not_known_of_the_decoding_is_said(report, teacher):
    """Alike: nothing to say. A report without its settings can be judged, and is named."""
    student, control = report("student", [True] * 356 + [False] * 44), report("sft", [True] * 280 + [False] * 120)
    alike = [one.model_copy(update={"decoding": dict(GREEDY)}) for one in (student, teacher, control)]
    assert distilled(*alike, "label.accuracy").decoding_unknown == []
    found = distilled(alike[0], teacher, alike[2], "label.accuracy")
    assert found.decoding_unknown == ["teacher"]
    assert "not known of teacher" in text(found)
