"""What a student kept by slice (MISSION S5): the ratio and its interval on the rows of each, what is proven short, and what is undefined or too small to say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from planish.errors import InputError
from planish.evidence.distilled import distilled
from planish.evidence.retained import quality_retained
from planish.evidence.retained_slices import MEAN, retained_by_slice
from planish.scores import EvalReport, Metric, Score


def half_lost(report):
    """400 rows, 200 of each language: the teacher has 180 of each right, the student the same but for 2 English and 30 German rows."""
    teacher = [True] * 180 + [False] * 20 + [True] * 180 + [False] * 20
    student = [True] * 178 + [False] * 22 + [True] * 150 + [False] * 50
    cuts = {"language": {f"r{place}": "en" if place < 200 else "de" for place in range(400)}}
    return report("student", student), report("teacher", teacher), cuts


def test_s5_the_part_that_was_lost_is_named(report):
    """S5: as a whole 328 / 360 = .911; English 178 / 180 = .989, German 150 / 180 = .833: only German is proven below .95."""
    student, teacher, cuts = half_lost(report)
    found = retained_by_slice(student, teacher, "label.accuracy", cuts, target=0.95)
    german, english = found.slices
    assert (german.value, english.value) == ("de", "en")
    assert german.retained.value == pytest.approx(150 / 180)
    assert english.retained.value == pytest.approx(178 / 180)
    assert (german.student, german.teacher, german.n) == (0.75, 0.9, 200)
    assert (german.short, english.short) == (True, False)
    assert found.short == (german,)
    assert found.tested == 2
    assert german.p_holm == pytest.approx(min(1.0, 2 * german.p_value))
    assert german.said.startswith("language=de 0.833 [")


def test_s5_the_interval_is_that_of_the_slices_own_rows(report):
    """A slice's figure equals quality_retained of two reports that hold its rows alone: same pairing, same draws."""
    student, teacher, cuts = half_lost(report)
    german = retained_by_slice(student, teacher, "label.accuracy", cuts, target=0.95).slices[0]

    def alone(whole):
        rows = whole.scores[200:]
        return EvalReport(
            system=whole.system, gold="g", metrics={"exact": Metric(name="exact", value=np.mean([row.value for row in rows]), n=200)}, scores=rows
        )

    apart = quality_retained(alone(student), alone(teacher), "exact")
    assert (german.retained.low, german.retained.high) == (apart.low, apart.high)


def test_s5_what_a_student_lost_in_a_part_stands_in_its_verdict(report):
    """120 of the teacher's 180 German answers are kept and 178 of the English: as a whole .828, above a target of .78, which decides; German .667 is named beside it."""
    student = report("student", [True] * 178 + [False] * 22 + [True] * 120 + [False] * 80)
    _, teacher, cuts = half_lost(report)
    control = report("sft", [True] * 150 + [False] * 250)
    found = distilled(student, teacher, control, "label.accuracy", target=0.78, cuts=cuts)
    assert found.ship
    assert [one.value for one in found.slices.short] == ["de"]
    assert "proven below the target: language=de 0.667" in found.why
    without = distilled(student, teacher, control, "label.accuracy", target=0.78)
    assert without.slices is None
    assert "proven below" not in without.why


def test_s5_lower_is_better_in_a_slice_too():
    """S5 Ex in a slice: perplexity 8 against 10 on 30 of 60 rows keeps .800, with one ratio in every row so that the interval is a point; the others are equal: 1."""

    def made(system, worse):
        nats = [10 * math.log(worse)] * 30 + [10 * math.log(8)] * 30
        rows = [Score(id=f"r{n}", answer=None, parsed=None, target="", value=0.0, detail={"nll": nll, "tokens": 10.0}) for n, nll in enumerate(nats)]
        value = math.exp(sum(nats) / 600)
        return EvalReport(system=system, gold="g", metrics={"perplexity": Metric(name="perplexity", value=value, n=60, higher_is_better=False)}, scores=rows)

    cuts = {"kind": {f"r{n}": "prose" if n < 30 else "code" for n in range(60)}}
    prose, code = retained_by_slice(made("student", 10), made("teacher", 8), "perplexity", cuts, target=0.95).slices
    assert (prose.value, prose.student, prose.teacher) == ("prose", pytest.approx(10), pytest.approx(8))
    assert (prose.retained.value, prose.retained.low, prose.retained.high) == pytest.approx((0.8, 0.8, 0.8))
    assert (prose.short, code.retained.value, code.short) == (True, pytest.approx(1), False)


def test_a_metric_over_labels_is_the_mean_score_in_a_slice(report):
    """Macro-F1 of the rows of one label would be over a label that is not there: the rows' own score stands for it, and is named."""
    student, teacher, _ = half_lost(report)
    cuts = {"label": {score.id: score.target for score in teacher.scores}}
    found = retained_by_slice(student, teacher, "label.macro_f1", cuts, target=0.95)
    assert found.metric == MEAN
    assert [one.retained.value for one in found.slices] == pytest.approx([164 / 180] * 2)


def test_few_rows_are_shown_and_not_tested_and_a_teacher_at_zero_is_undefined(report):
    """A slice of 10 rows is thin whatever it lost; where the teacher has none of 40 right there is nothing to keep."""
    student = report("student", [False] * 10 + [True] * 40 + [True] * 50)
    teacher = report("teacher", [True] * 10 + [False] * 40 + [True] * 50)
    cuts = {"kind": {f"r{n}": "few" if n < 10 else "none" if n < 50 else "rest" for n in range(100)}, "row": {f"r{n}": str(n) for n in range(100)}}
    found = retained_by_slice(student, teacher, "label.accuracy", cuts, target=0.95)
    rest, few, none = found.slices
    assert (few.thin, few.short, few.p_value, few.retained.value) == (True, False, None, 0.0)
    assert none.retained is None
    assert "undefined" in none.undefined
    assert rest.p_value is not None
    assert found.tested == 1
    assert found.left_out == {"row": "no value has 20 rows"}


def test_rows_of_one_group_are_drawn_together(report):
    """Twenty rows of each group that are right or wrong as one: the interval by groups is wider."""
    right = [n % 4 != 0 for n in range(10) for _ in range(20)]
    student, teacher = report("student", right), report("teacher", [True] * 200)
    cuts = {"all": {f"r{n}": "whole" if n < 199 else "last" for n in range(200)}}
    groups = {f"r{n}": str(n // 20) for n in range(200)}
    wide, narrow = (retained_by_slice(student, teacher, "label.accuracy", cuts, target=0.95, groups=one).slices[0].retained for one in (groups, None))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_another_gold_set_or_a_metric_that_is_missing_is_refused(report):
    student, teacher, cuts = half_lost(report)
    with pytest.raises(InputError, match="gold"):
        retained_by_slice(report("student", [True] * 400, gold="gold-2"), teacher, "label.accuracy", cuts, target=0.95)
    with pytest.raises(InputError, match="did not measure"):
        retained_by_slice(student, teacher, "exact", cuts, target=0.95)
    with pytest.raises(InputError, match="no slice of this name"):
        retained_by_slice(student, teacher, "label.accuracy", cuts, target=0.95, keys=["language", "colour"])
