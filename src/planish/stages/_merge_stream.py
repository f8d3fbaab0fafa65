"""A merge's tensors streamed piece by piece: parents read, method applied, result rounded to its format, and how far it moved measured on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from planish.errors import Problem
from planish.model.merging import Planned
from planish.model.tensor_stream import FLOATING, Piece, Pieces, finite
from planish.shelf import call
from planish.stages._merge_opened import Opened


@dataclass
class Change:
    """How far the result, as stored, is from the reference, over all tensors that both have."""

    values: int = 0
    changed: int = 0
    difference: float = 0.0
    length: float = 0.0

    def add(self, reference: Tensor, stored: Tensor, apart: Tensor) -> None:
        """`apart` is written over."""
        apart.copy_(stored).sub_(reference)
        self.values += apart.numel()
        self.changed += int(np.count_nonzero(apart.numpy() != 0))  # several times as fast as torch's
        self.difference += float(torch.dot(apart, apart))
        self.length += float(torch.dot(reference, reference))

    @classmethod
    def of_all(cls, parts: Iterable[Change]) -> Change:
        """Of several tensors."""
        return cls(*(sum(each) for each in zip(*((part.values, part.changed, part.difference, part.length) for part in parts), strict=True)))


def pieces_of(opened: Opened, one: Planned, limit: int | None = None) -> Pieces:
    """One tensor of every parent, read side by side, of its first `limit` values; weights that are not finite are added to the problems of `opened`."""
    parents = [opened.parents[path] for path in one.sources]
    base = opened.base if opened.base is not None and one.base_name in opened.base.entries else None
    examined: set[int] = set()

    def read(start: int, stop: int) -> Piece:
        own = [opened.buffers.take(f"parent {at}", stop - start) for at in range(len(parents) + 1)]
        values = None if base is None else base.read(one.base_name, start, stop, into=own[-1])
        # an adapter takes the base's values that are read already only where they are of its own layer: in a stack they may be another's
        under = [values if name == one.base_name else None for name in one.names]
        models = [parent.read(name, start, stop, same, into) for parent, name, same, into in zip(parents, one.names, under, own[:-1], strict=True)]
        if start not in examined:
            examined.add(start)
            everyone = [*([] if base is None or values is None else [(base.folder, one.base_name, values)])]
            everyone += [(parent.folder, name, model) for parent, name, model in zip(parents, one.names, models, strict=True)]
            for folder, name, model in everyone:
                if not finite(model):
                    why = Problem(f"{folder}: {name}", "holds NaN or infinite weights", "fetch or train this parent again")
                    opened.problems.setdefault((str(folder), name), why)
        return Piece(values, models)

    size = math.prod(opened.layout[one.name][1])
    return Pieces(one.name, size if limit is None else min(size, limit), len(parents), read)


def merged_values(opened: Opened, changes: Mapping[str, Change], advance: Callable[[int], None]) -> Callable[[str], Iterator[Tensor]]:
    """A tensor's name -> its merged values in the stored format, piece by piece; how far they moved is added to `changes`, and `advance` told of every tensor."""
    by_name = {one.name: one for one in opened.planned}

    def values(name: str) -> Iterator[Tensor]:
        one, dtype = by_name[name], FLOATING[opened.layout[name][0]]
        pieces = pieces_of(opened, one)
        for merged in call("transforms", opened.spec.technique, "stream", one.options)(pieces):
            if opened.problems:
                # what is made of such weights is thrown away; the rest is still read, so that every problem is named
                yield torch.zeros_like(merged)
                continue
            stored, read = merged.to(dtype), pieces.last
            assert read is not None
            changes[name].add(read.models[0] if read.base is None else read.base, stored, opened.buffers.take("apart", merged.numel()))
            yield stored
        advance(1)

    return values
