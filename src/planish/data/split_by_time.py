"""A split by time: the oldest units are train, the newest gold, so that the score is one on later rows (MISSION D8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planish.data.split import SPLITS, SplitName
from planish.data.split_units import Unit, name_of
from planish.errors import InputError, Problem


def oldest_first(units: Sequence[Unit], times: Mapping[str, str | float]) -> list[int]:
    """The units' places from the oldest to the newest; a unit is as new as its newest row."""
    missing = [row.id for unit in units for row in unit if row.id not in times]
    if missing:
        raise InputError(Problem("data.split.time_by", f"{len(missing)} rows have no time, the first is {missing[0]}", "give every row its time"))
    newest = [(max(times[row.id] for row in unit), name_of(unit)) for unit in units]
    return sorted(range(len(units)), key=newest.__getitem__)


def by_time(units: Sequence[Unit], order: Sequence[int], targets: Mapping[SplitName, float]) -> list[SplitName]:
    """Train from the oldest on, then validation, gold the newest; each side closes once it has its share of the rows."""
    total, done = sum(len(unit) for unit in units), 0
    chosen: list[SplitName] = ["train"] * len(units)
    sides = [name for name in SPLITS if name in targets]  # train, validation, gold
    ends = [total * sum(targets[side] for side in sides[: index + 1]) for index in range(len(sides))]
    for place in order:
        middle = done + len(units[place]) / 2
        chosen[place] = next((side for side, end in zip(sides, ends, strict=True) if middle < end), sides[-1])
        done += len(units[place])
    return chosen
