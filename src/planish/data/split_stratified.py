"""The first split of a data set: units in hash order, each to the side whose label counts it brings nearest to their targets (MISSION D8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from planish.data.split import SplitName, label_of
from planish.data.split_units import Unit


def stratified(units: Sequence[Unit], order: Sequence[int], targets: Mapping[SplitName, float]) -> list[SplitName]:
    """Each unit, in hash order, to the split whose label counts it brings nearest to their targets.

    The distance is the sum over splits and labels of (have - want)^2 / want; for units of one row this is the Sainte-Laguë rule of proportional seats.
    """
    totals = Counter([row.label or "" for unit in units for row in unit])
    names = list(targets)
    want = {label: [count * share for share in targets.values()] for label, count in totals.items()}
    have = {label: [0] * len(names) for label in totals}
    chosen: list[SplitName] = ["train"] * len(units)
    # most units are one row: its label, and what one more of it would cost on each side
    alone = [unit[0].label or "" if len(unit) == 1 else None for unit in units]
    single = {label: [(1 + 2 * (0 - wanted)) / wanted for wanted in want[label]] for label in totals}
    for place in order:
        label = alone[place]
        if label is not None:
            costs = single[label]
            best = costs.index(min(costs))
            have[label][best] += 1
            costs[best] = (1 + 2 * (have[label][best] - want[label][best])) / want[label][best]
        else:
            labels = _labels(units[place])
            costs = [_cost([(n, have[label][side], want[label][side]) for label, n in labels.items()]) for side in range(len(names))]
            best = costs.index(min(costs))
            for label, n in labels.items():
                have[label][best] += n
                single[label][best] = (1 + 2 * (have[label][best] - want[label][best])) / want[label][best]
        chosen[place] = names[best]
    if "gold" in targets:
        _lend_to_gold(units, order, chosen, {name: +Counter({label: held[side] for label, held in have.items()}) for side, name in enumerate(names)})
    return chosen


def _cost(labels: Iterable[tuple[int, int, float]]) -> float:
    """What so many rows of some labels add to the distance of a side that has so many and wants so many of each."""
    cost = 0.0
    for n, held, wanted in labels:
        cost += n * (n + 2 * (held - wanted)) / wanted
    return cost


def _lend_to_gold(units: Sequence[Unit], order: Sequence[int], chosen: list[SplitName], have: Mapping[SplitName, Counter[str]]) -> None:
    """A label too rare for its share of gold still needs one row there: move the smallest training unit that has it, if train keeps every label."""
    lacking = [label for label in sorted(have["train"]) if not have["gold"][label]]
    holders: dict[str, list[int]] = {label: [] for label in lacking}
    for index in order if lacking else ():
        for label in {*map(label_of, units[index])} & holders.keys():
            holders[label].append(index)
    for label in lacking:
        if have["gold"][label]:
            continue
        able = [index for index in holders[label] if chosen[index] == "train" and all(have["train"][other] > n for other, n in _labels(units[index]).items())]
        if able:
            index = min(able, key=lambda index: len(units[index]))
            chosen[index] = "gold"
            have["train"].subtract(_labels(units[index]))
            have["gold"].update(_labels(units[index]))


def _labels(unit: Unit) -> Counter[str]:
    return Counter(map(label_of, unit))
