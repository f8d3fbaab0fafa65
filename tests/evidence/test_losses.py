import sys

import pytest

from planish.evidence.losses import Loss, Losses, compare_rows, confusions, grouped, losses, to_add
from planish.evidence.slices import by_slice

REFUND = ["please refund my last order", "i want a refund for this order", "refund the order i made", "when is my order refund here", "my refund never came"]
PASSWORD = ["i forgot my password again", "reset my password now", "the password reset mail is missing", "my password does not work", "change my password"]
OTHER = [
    "what a lovely day",
    "the parcel arrived broken",
    "open on sunday",
    "cancel the newsletter",
    "is it waterproof",
    "thanks",
    "call me back",
    "where are you",
]


def test_rows_the_baseline_had_right_are_listed(report):
    found = losses(report("lora", [True, False, False, True]), report("prompt", [True, True, False, False]))
    assert [(loss.id, loss.target, loss.answer, loss.baseline_answer) for loss in found] == [("r1", "no", "yes", "no")]


def test_commonest_confusions(report):
    found = confusions(report("lora", [False, True, False, False]))
    assert [(one.target, one.read, one.rows, one.of) for one in found] == [("yes", "no", 2, 2), ("no", "yes", 1, 2)]


def _lost(texts, targets=("yes",)):
    return [Loss(id=f"r{i}", target=targets[i % len(targets)], answer=None, baseline_answer="yes") for i in range(len(texts))]


def test_e7_lost_rows_fall_into_their_groups_named_by_what_sets_them_apart():
    texts = {f"r{i}": text for i, text in enumerate([*REFUND, *PASSWORD, *OTHER])}
    groups = grouped(_lost([*REFUND, *PASSWORD]), texts)
    assert [set(group.ids) for group in sorted(groups, key=lambda group: group.ids)] == [{f"r{i}" for i in range(5)}, {f"r{i}" for i in range(5, 10)}]
    by_first = {group.ids[0]: group for group in groups}
    assert "refund" in by_first["r0"].terms
    assert "password" in by_first["r5"].terms
    assert set(by_first["r0"].examples) <= set(REFUND)
    assert by_first["r0"].targets == {"yes": 5}
    assert groups == grouped(_lost([*REFUND, *PASSWORD]), texts), "the same rows, the same groups"


def test_single_cases_are_no_group():
    texts = {f"r{i}": text for i, text in enumerate(OTHER)}
    assert grouped(_lost(OTHER[:2]), texts) == []
    assert grouped([], texts) == []
    assert grouped(_lost(["!", "?", "."]), {"r0": "!", "r1": "?", "r2": "."}) == []


def test_a_script_without_spaces_is_grouped_by_pairs_of_characters():
    texts = {f"r{i}": text for i, text in enumerate(["退款什么时候到", "我要退款", "退款在哪里", "密码忘记了", "重置密码", "密码不对", "你好"])}
    groups = grouped(_lost(list(range(6))), texts)
    assert sorted({term for group in groups for term in group.terms} & {"退款", "密码"}) == ["密码", "退款"]


def test_what_to_add_names_weak_slices_with_the_rows_they_lack_then_confusions_then_groups(report):
    """The label "no" has 12 training rows, the median of 12, 80 and 90 is 80: at least 68 are lacking."""
    ours = report("lora", [place % 2 == 0 or place % 4 == 1 for place in range(200)])
    weak = [one for one in by_slice(ours, {"label": {score.id: score.target for score in ours.scores}}).slices if one.weak]
    groups = grouped(_lost(REFUND), {f"r{i}": text for i, text in enumerate([*REFUND, *OTHER])})
    found = to_add(weak, confusions(ours), groups, {"no": 12, "yes": 80, "maybe": 90})
    assert [one.what for one in found][:2] == ["rows with label no", "rows that tell no from yes"]
    assert found[0].rows == 68
    assert found[0].why == "0.50 on 100 gold rows against 1.00 on the others; it has 12 training rows, the median label 80"
    assert found[1].why == "50 of 100 gold rows of no were read as yes"
    assert "refund" in found[2].what
    assert "these are gold" in found[2].why


def test_answers_of_no_readable_form_are_their_own_advice(report):
    ours = report("lora", [True] * 40)
    cut = ours.model_copy(
        update={"scores": [score.model_copy(update={"parsed": None, "value": 0.0}) if i < 8 else score for i, score in enumerate(ours.scores)]}
    )
    assert [one.what for one in to_add([], confusions(cut), [])] == [
        "rows of no whose answer has the required form",
        "rows of yes whose answer has the required form",
    ]


def test_the_whole_comparison_is_stored_as_it_is(report):
    ours, theirs = report("lora", [False] * 5 + [True] * 13), report("prompt", [True] * 17 + [False])
    texts = {f"r{i}": text for i, text in enumerate([*REFUND, *PASSWORD, *OTHER])}
    found = compare_rows(ours, theirs, texts)
    assert (found.candidate, found.baseline, found.n, found.won, len(found.lost)) == ("lora", "prompt", 18, 1, 5)
    assert found.groups is not None
    assert [set(group.ids) for group in found.groups] == [{f"r{i}" for i in range(5)}]
    assert Losses.model_validate(found.model_dump(mode="json")) == found


def test_without_scikit_learn_the_rows_are_listed_and_the_package_is_named(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    texts = {f"r{i}": text for i, text in enumerate([*REFUND, *PASSWORD, *OTHER])}
    found = compare_rows(report("lora", [False] * 5 + [True] * 13), report("prompt", [True] * 18), texts)
    assert found.groups is None
    assert len(found.lost) == 5
    assert 'pip install "planish[classifier]"' in found.note


@pytest.mark.parametrize("count", [2500])
def test_more_rows_than_are_compared_are_counted_and_said(report, count, monkeypatch):
    monkeypatch.setattr("planish.evidence.losses.COMPARED", 100)
    texts = {f"r{i}": REFUND[i % 5] for i in range(count)}
    found = compare_rows(report("lora", [False] * count), report("prompt", [True] * count), texts)
    assert len(found.lost) == count
    assert found.note == "the first 100 of 2500 lost rows are grouped"
    assert sum(len(group.ids) for group in found.groups) == 100
