"""Where the rows of an earlier data set lie in a file that has changed since: its ids may count lines, stand twice, or be given anew (MISSION D8)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import attrgetter

from planish.data.split import SplitName
from planish.data.table import Keys

_SAME_ROW: Callable[[Keys], Hashable] = attrgetter("duplicate")
_SAME_QUESTION: Callable[[Keys], Hashable] = attrgetter("question")
_SAME_PLACE: Callable[[Keys], Hashable] = attrgetter("id", "group")


def carried(now: Sequence[Keys], before: Sequence[Keys], placed: Mapping[str, SplitName]) -> dict[str, SplitName]:
    """The side of every row of `now` that is one of `before`, whose sides are `placed`. A row is what it asks, not what it is called; each earlier one is found once at most.

    In this order: the same id and question; the same row under another id, then the same question; the same id and group, where neither question is known: an edit.
    """
    sides: dict[str, SplitName] = {}
    lost = {row.id: row for row in before}
    new = []
    for row in now:
        was = lost.get(row.id)
        if was is not None and was.question == row.question:
            sides[row.id] = placed[lost.pop(row.id).id]
        else:
            new.append(row)
    for key in (_SAME_ROW, _SAME_QUESTION, _SAME_PLACE):
        if not lost or not new:
            break
        if key is _SAME_PLACE:  # a row that has become a copy of another goes where that one is
            known = {row.question for row in now if row.id in sides}
            new = [row for row in new if row.question not in known]
        found = defaultdict[Hashable, list[str]](list)
        for row in lost.values():
            found[key(row)].append(row.id)
        rest, new = new, []
        for row in rest:
            if at := found.get(key(row)):
                sides[row.id] = placed[lost.pop(at.pop(0)).id]
            else:
                new.append(row)
    return sides
