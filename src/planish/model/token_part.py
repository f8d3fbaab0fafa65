"""Some rows of a token store as arrays; places are counted from the beginning of the part."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.model.plain_masks import Laid
from planish.model.template import Refused
from planish.model.token_store import ARRAYS, Fault

Runs = list[tuple[int, int, float]]
"""Start, stop and weight of each trained run."""

Encoded = tuple[list[tuple[NDArray[np.int32], Runs, tuple[float, ...]]], float]
"""The sequences of a row, each with its ids, its runs and an objective's own numbers; and the row's share."""


class Part(NamedTuple):
    """Rows as the arrays of a token store, and those that were refused."""

    arrays: dict[str, NDArray[Any]]
    row_ids: list[str]
    faults: list[Fault]

    def same(self, other: Part) -> bool:
        """Whether the arrays of both are equal, and no row was refused."""
        return not (self.faults or other.faults) and all(np.array_equal(self.arrays[name], other.arrays[name]) for name in ARRAYS)


def of_laid(names: Seq[str], laid: Laid, first: int) -> Part:
    """The dialogues from number `first` on, as many as there are names; all of them known."""
    last = first + len(names)
    begin, end = laid.starts[first], laid.starts[last]
    runs = laid.span_starts[first : last + 1]
    spans = laid.spans[runs[0] : runs[-1]] - begin
    before = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])
    arrays = {
        "ids": laid.ids[begin:end],
        "ends": laid.starts[first + 1 : last + 1] - begin,
        "spans": spans.ravel(),
        "span_weights": np.ones(len(spans)),
        "given": np.zeros(0),
        "given_ends": np.zeros(len(names)),
        "rows": np.arange(1, len(names) + 1),
        "shares": np.diff(before[runs - runs[0]]),
    }
    return Part({name: values.astype(ARRAYS[name]) for name, values in arrays.items()}, list(names), [])


def of_rows(names: Seq[str], made: Iterable[Encoded | Refused]) -> Part:
    """Rows one by one."""
    columns: dict[str, list[Any]] = {name: [] for name in ARRAYS}
    ids, tokens = [np.zeros(0, np.int32)], 0
    row_ids, faults = list[str](), list[Fault]()
    for name, each in zip(names, made, strict=True):
        if isinstance(each, Refused):
            faults.append(Fault(name, each.code, each.why))
            continue
        sequences, share = each
        for own, trained, given in sequences:
            columns["given"] += given
            columns["given_ends"].append(len(columns["given"]))
            ids.append(own)
            for start, stop, weight in trained:
                columns["spans"] += (tokens + start, tokens + stop)
                columns["span_weights"].append(weight)
            tokens += len(own)
            columns["ends"].append(tokens)
        columns["rows"].append(len(columns["ends"]))
        columns["shares"].append(share)
        row_ids.append(name)
    arrays = {name: np.array(values, ARRAYS[name]) for name, values in columns.items()}
    return Part(arrays | {"ids": np.concatenate(ids)}, row_ids, faults)


def runs(weights: tuple[float, ...]) -> Runs:
    """Runs of equal weights that are not 0."""
    given = np.array(weights)
    edges = [0, *(np.flatnonzero(np.diff(given)) + 1).tolist(), len(weights)]
    return [(start, stop, weights[start]) for start, stop in pairwise(edges) if weights[start]]
