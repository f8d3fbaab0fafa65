"""A pruned file against quantisation at equal size (MISSION Z9, Z10): no rival of that size may be as good, by the paired interval."""

from __future__ import annotations

import pytest

from planish.errors import InputError
from planish.evidence.equal_size import Sized, against_quantised
from planish.scores import EvalReport, Metric, Score


def sized(file: str, size: int, right: int, n: int = 200, *, higher: bool = True) -> Sized:
    """A file that has the first `right` of n rows right."""
    scores = [Score(id=f"r{row}", answer=None, parsed=None, target="a", value=float(row < right)) for row in range(n)]
    metric = Metric(name="exact.exact", value=right / n, n=n, higher_is_better=higher)
    return Sized(file, size, EvalReport(system=file, gold="g", metrics={"exact.exact": metric}, scores=scores))


def test_every_file_that_is_no_larger_must_be_beaten() -> None:
    """Of 80, 100, 104 and 120 bytes beside 100, all but the last are within 5 %. The largest of them is beaten by 170 - 100; the 190 of 80 bytes is not, and decides."""
    rivals = [sized("a", 80, 190), sized("b", 100, 150), sized("c", 104, 100), sized("d", 120, 200)]
    found = against_quantised(sized("pruned", 100, 170), rivals, "exact.exact")
    assert (found.rival, found.equal, found.decision) == ("a", True, "quantise")
    assert found.difference.difference == pytest.approx(-0.1)  # 170 - 190 of 200
    assert "the hardest to beat of 3 that are no larger" in found.sentence
    assert against_quantised(sized("pruned", 100, 170), rivals[1:3], "exact.exact").decision == "prune"


@pytest.mark.parametrize(
    ("right", "decision", "word"),
    [(100, "quantise", "quantise instead: pruning is worse"), (150, "quantise", "which is simpler"), (190, "prune", "pruning is better at equal size")],
)
def test_r8_pruning_is_advised_only_where_it_wins_outside_noise(right: int, decision: str, word: str) -> None:
    """150 of 200 for the rival: 100 loses, 150 is no difference, 190 wins."""
    found = against_quantised(sized("pruned", 100, right), [sized("q4", 100, 150)], "exact.exact")
    assert found.decision == decision
    assert word in found.sentence


def test_where_every_quantised_file_is_larger_that_is_said() -> None:
    smaller = against_quantised(sized("pruned", 50, 150), [sized("q4", 100, 150), sized("q8", 200, 150)], "exact.exact")
    assert (smaller.rival, smaller.equal, smaller.decision) == ("q4", False, "prune")
    assert "every quantised file is larger; no loss outside noise" in smaller.sentence
    assert "worse outside noise" in against_quantised(sized("pruned", 50, 60), [sized("q4", 100, 150)], "exact.exact").sentence
    with pytest.raises(InputError, match="nothing of equal size"):
        against_quantised(sized("pruned", 50, 60), [], "exact.exact")


def test_a_metric_where_less_is_better_is_turned_round() -> None:
    """Error counts: 60 against 150 wins by .45."""
    found = against_quantised(sized("pruned", 100, 60, higher=False), [sized("q4", 100, 150, higher=False)], "exact.exact")
    assert found.difference.difference == pytest.approx(0.45)
    assert found.decision == "prune"
