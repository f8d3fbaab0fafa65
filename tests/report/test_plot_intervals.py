"""Intervals drawn as bars: what rounding alone turns round is a bar of no length and no traceback at the end of a run that is done."""

from __future__ import annotations

from planish.report import plots
from planish.scores import Metric

EQUAL = Metric(name="f1.f1", value=0.4444444444444446, low=0.4444444444444441, high=0.4444444444444444, n=60)
"""Sixty rows of 4/9 each, as a run had them: the mean of every resample rounds below the mean of all rows."""


def test_rows_that_all_score_the_same_are_drawn() -> None:
    assert plots._spread(EQUAL)[1] == [0.0]
    assert plots._spread(Metric(name="x", value=0.5, low=0.25, high=1.0, n=4)) == [[0.25], [0.5]]
    assert plots._spread(Metric(name="x", value=0.5, n=4)) == [[0.0], [0.0]]
    other = Metric(name="f1.f1", value=0.5, low=0.25, high=0.75, n=60)
    plots.ladder([("copy_input", EQUAL), ("lora", other)], "f1.f1", "lora")
    plots.slices([("short", EQUAL, False)], 0.4)
    plots.pareto([("a.gguf", 1e6, EQUAL, True), ("b.gguf", 2e6, other, False)], "KL")
