"""A merge is kept only where no parent beats it outside noise on its own task (MISSION W6)."""

from __future__ import annotations

import pytest

from planish.errors import InputError
from planish.evidence.merged import TaskScores, lines, verdict
from planish.model.general import report as general_report
from planish.scores import Score

ACCURACY = "label.accuracy"


def scored(pair, name, owner, n, merge_only, owner_only, owner_right, other_right):
    """Merge and owner by their discordant rows; the other parent has the first `other_right` rows right."""
    merge, best = pair(n, owner_right - owner_only, merge_only, owner_only, ("merge", owner))
    other = pair(n, other_right, 0, 0, ("x", "x"))[0]
    other_name = {"a": "b", "b": "a"}[owner]
    return TaskScores(task=name, metric=ACCURACY, owner=owner, merge=merge, parents={owner: best, other_name: other.model_copy(update={"system": other_name})})


def test_w6_parents_that_win_by_little_lose_to_one_model(pair):
    """W6 Ex: parents .90/.40 and .35/.88, merge .86/.85. On 100 rows the merge loses 7 rows and wins 3 (-.04), loses 7 and wins 4 (-.03): inside noise.
    It wins as one model, and both losses are shown."""
    first = scored(pair, "one", "a", 100, 3, 7, 90, 35)
    second = scored(pair, "two", "b", 100, 4, 7, 88, 40)
    found = verdict([first, second])
    assert found.decision == "merge"
    assert [(line.merge, line.parents["a"], line.parents["b"]) for line in found.table] == [
        pytest.approx((0.86, 0.90, 0.35)),
        pytest.approx((0.85, 0.40, 0.88)),
    ]
    assert [line.difference for line in found.table] == pytest.approx([-0.04, -0.03])
    assert "-0.040 [" in found.sentence
    assert "-0.030 [" in found.sentence


def test_w6_a_parent_that_is_better_outside_noise_keeps_its_adapter(pair):
    """The same -.04 on 2,000 rows with 120 lost and 40 won: McNemar's p is below 1e-9, so this skill did not survive."""
    first = scored(pair, "one", "a", 2000, 40, 120, 1800, 700)
    found = verdict([first, scored(pair, "two", "b", 100, 4, 7, 88, 40)])
    assert found.decision == "multi_adapter"
    assert [line.survived for line in found.table] == [False, True]
    assert "one did not survive" in found.sentence


def general(system, right, n=400):
    """General text of which the first `right` rows have their one token predicted."""
    rows = [
        Score(
            id=str(index),
            answer=None,
            parsed=None,
            target="",
            value=float(index < right),
            detail={
                "tokens": 1.0,
                "correct": float(index < right),
                "nll": 1.0,
                "general.text.next_token_accuracy.part": float(index < right),
                "general.text.next_token_accuracy.whole": 1.0,
            },
        )
        for index in range(n)
    ]
    return general_report(system, "general", rows)


def test_w6_general_ability_is_held_against_the_base_and_decides_nothing(pair):
    """C4 of the merge: 300 rows of 400 before and 200 after are -.25, which is proven; the table and the sentence say so, and the decision is the parents' tasks' alone."""
    one = scored(pair, "one", "a", 100, 3, 7, 90, 35)
    with_base = one.model_copy(update={"parents": one.parents | {"base": one.parents["b"].model_copy(update={"system": "base"})}})
    told = TaskScores(task="general", metric="general.next_token_accuracy", owner=None, merge=general("merge", 200), parents={"base": general("base", 300)})
    found = verdict([with_base, told])
    assert found.decision == "merge"
    assert (found.table[1].against, found.table[1].difference, found.table[1].survived) == ("base", -0.25, True)
    assert found.forgetting is not None
    assert (found.forgetting.outcome, found.forgetting.general.difference) == ("forgot", -0.25)
    assert "Against the base: It forgot" in found.sentence
    alone = verdict([one, told.model_copy(update={"parents": {"a": general("a", 300)}})])
    assert (alone.forgetting, alone.table[1].difference) == (None, None)


def test_w6_the_table_says_which_skill_survived(pair):
    first = scored(pair, "one", "a", 2000, 40, 120, 1800, 700)
    told = lines(verdict([first, scored(pair, "two", "b", 100, 4, 7, 88, 40)]).model_dump(mode="json"))
    assert told[0].startswith("one (label.accuracy, 2000 rows): merge 0.860; a 0.900, b 0.350; merge less a -0.040 [")
    assert told[0].endswith("]: did NOT survive")
    assert told[1].endswith("]: survived")


def test_w6_each_task_has_its_own_clusters(pair):
    """-.04 outside noise over 2,000 rows that are two groups, the losses all in one: drawn by group, it is inside noise. The other task has no groups."""
    plain = scored(pair, "one", "a", 2000, 40, 120, 1800, 700)
    halves = {score.id: str(index // 1000) for index, score in enumerate(plain.merge.scores)}
    found = verdict([plain.model_copy(update={"groups": halves}), scored(pair, "two", "b", 100, 4, 7, 88, 40)])
    assert [line.survived for line in found.table] == [True, True]


def test_no_verdict_without_owners_or_their_scores(pair):
    one = scored(pair, "one", "a", 100, 3, 7, 90, 35)
    with pytest.raises(InputError, match="no parent's task was scored"):
        verdict([one.model_copy(update={"owner": None})])
    with pytest.raises(InputError, match="its parent c was not scored"):
        verdict([one.model_copy(update={"owner": "c"})])
    with pytest.raises(InputError, match="given twice"):
        verdict([one, one])
