"""A merge is kept only where no parent beats it outside noise on its own task (MISSION W6)."""

from __future__ import annotations

import pytest

from planish.errors import InputError
from planish.evidence.merged import TaskScores, verdict

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


def test_general_ability_is_shown_and_decides_nothing(pair):
    merge, base = pair(400, 100, 0, 200, ("merge", "base"))
    general = TaskScores(task="general", metric=ACCURACY, owner=None, merge=merge, parents={"base": base})
    found = verdict([scored(pair, "one", "a", 100, 3, 7, 90, 35), general])
    assert found.decision == "merge"
    assert (found.table[1].difference, found.table[1].parents["base"]) == (None, 0.75)


def test_no_verdict_without_owners_or_their_scores(pair):
    one = scored(pair, "one", "a", 100, 3, 7, 90, 35)
    with pytest.raises(InputError, match="no parent's task was scored"):
        verdict([one.model_copy(update={"owner": None})])
    with pytest.raises(InputError, match="its parent c was not scored"):
        verdict([one.model_copy(update={"owner": "c"})])
    with pytest.raises(InputError, match="given twice"):
        verdict([one, one])
