"""What pruning cost and what retraining won back, on the same gold rows (MISSION Z10)."""

from __future__ import annotations

from collections.abc import Mapping

from planish.errors import InputError, Problem
from planish.evidence.paired import compare
from planish.evidence.retained import quality_retained
from planish.rows import Noun
from planish.scores import Comparison, EvalReport, Metric


class Recovery(Noun):
    """`damage` is the unpruned parent less the pruned model, `regained` the recovered less the pruned, both with paired intervals; plus is better of the first named.

    `share` is regained / damage, None where the damage is 0 or less or inside noise: then there is nothing to win back. `retained` is S5's: recovered over parent.
    `speed` is how many times faster the gold set was answered than by the parent, where both were timed.
    """

    metric: str
    parent: float
    pruned: float
    recovered: float
    damage: Comparison
    regained: Comparison
    share: float | None
    retained: Metric
    speed: float | None
    sentence: str


def recovery(parent: EvalReport, pruned: EvalReport, recovered: EvalReport, metric: str, *, groups: Mapping[str, str] | None = None) -> Recovery:
    """Damage, recovery and what is kept of the parent. Raises InputError for a report without the metric, and for reports that are not on the same rows."""
    absent = [one.system for one in (parent, pruned, recovered) if metric not in one.metrics]
    if absent:
        raise InputError(*(Problem(f"recovery: {system}", f"{metric} was not measured", "score all three on the same gold set") for system in absent))
    lower_is_better = not parent.metrics[metric].higher_is_better
    damage = _plus_is_better(compare(parent, pruned, metric, groups=groups), lower_is_better)
    regained = _plus_is_better(compare(recovered, pruned, metric, groups=groups), lower_is_better)
    retained = quality_retained(recovered, parent, metric, groups=groups)
    share = regained.difference / damage.difference if damage.low > 0 else None
    values = [one.metrics[metric].value for one in (parent, pruned, recovered)]
    path = " -> ".join(f"{value:.3f}" for value in values)
    won = (
        "pruning did no damage outside noise, so there is nothing to win back"
        if share is None
        else f"recovered {share:.0%} of the damage of {damage.difference:.3f}"
    )
    return Recovery(
        metric=metric,
        parent=values[0],
        pruned=values[1],
        recovered=values[2],
        damage=damage,
        regained=regained,
        share=share,
        retained=retained,
        speed=parent.seconds / recovered.seconds if parent.seconds and recovered.seconds else None,
        sentence=f"{metric} {path}: {won}; {retained.value:.1%} of the parent is kept.",
    )


def _plus_is_better(found: Comparison, lower_is_better: bool) -> Comparison:
    if not lower_is_better:
        return found
    return found.model_copy(update={"difference": -found.difference, "low": -found.high, "high": -found.low})
