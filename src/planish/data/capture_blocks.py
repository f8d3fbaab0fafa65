"""Blocks of captured rows as bytes, and the tables of a file, learned from its rows, by which they are written and read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from planish.data.capture_coder import Learned, Positions, code
from planish.data.capture_file import CapturedRow
from planish.data.capture_rounding import drawn_levels_of, levels_of, rests_of
from planish.data.rans import Ints, Reader, Writer
from planish.data.token_sets import Tree, fit_rows, kinds_of

SAMPLE = 2_000_000
"""Kept tokens that the tables are learned from: of every row, or of every second, fourth.. row of a large capture."""
NOTHING = 2**32 - 1
_PLANES = {"lengths": "<u4", "trained": "u1", "untrained": "<u4", "drawn": "<u4", "drawn_levels": "<u2"}


class Whole(NamedTuple):
    """Rows of the file, with raw ids: those of Positions in no order, and what begins a row."""

    positions: Positions
    begins: NDArray[np.bool_]


class Read(NamedTuple):
    """One row of a block, in small types. counts: (N,); ids, levels: (sum,); rests: (M, T) of the M positions with counts > 0; drawn, drawn_levels: (N, draws)."""

    completion: NDArray[np.int32]
    trained: NDArray[np.bool_]
    counts: NDArray[np.int32]
    ids: NDArray[np.int32]
    levels: NDArray[np.integer[Any]]
    rests: NDArray[np.int32]
    drawn: NDArray[np.int32]
    drawn_levels: NDArray[np.int32]


@dataclass(frozen=True)
class Tables:
    """ids: (V,) rising, of all tokens of the file; classes: (V,) how often each is seen, see _WEIGHTS; kinds: (V,); and what is made of them."""

    temperatures: tuple[float, ...]
    steps: int
    ids: Ints
    classes: Ints
    kinds: Ints
    tree: Tree
    learned: Learned

    def placed(self, positions: Positions) -> Positions:
        """Places in the tree for ids, rising in each set."""
        return _placed(positions, self.ids, self.tree.place)

    def written(self) -> bytes:
        """The tables by which a block is read again."""
        arrays = {"ids": np.diff(self.ids, prepend=0), "classes": self.classes, "kinds": self.kinds, "rows": self.tree.rows, **self.learned.arrays()}
        head = {name: [_kind(array), list(array.shape)] for name, array in arrays.items()}
        said = json.dumps({**head, "temperatures": self.temperatures})
        return _joined([said.encode(), *(_squeezed(array.ravel(), _kind(array)) for array in arrays.values())])

    @classmethod
    def read(cls, data: bytes, steps: int) -> Self:
        """What `written` gave. Raises ValueError where it is not that."""
        first, *parts = _parts(data)
        head = json.loads(first)
        temperatures = tuple(head.pop("temperatures"))
        arrays = {name: _loosened(part, kind).reshape(shape) for part, (name, (kind, shape)) in zip(parts, head.items(), strict=True)}
        ids, classes, kinds, rows = (arrays.pop(name) for name in ("ids", "classes", "kinds", "rows"))
        ids = np.cumsum(ids)
        return cls(temperatures, steps, ids, classes, kinds, Tree.of(ids, _weights()[classes], kinds, rows), Learned(**arrays))


def learn(rows: Iterable[CapturedRow], temperatures: tuple[float, ...], steps: int) -> Tables:
    """One pass over all rows."""
    seen, there, largest, every, held, sample = np.zeros(1, np.int64), np.zeros(1, np.int64), (0, 0, 0), 1, 0, list[CapturedRow]()
    for number, row in enumerate(rows):
        kept, also = np.concatenate([row.said.ids, np.array(row.completion_ids, np.int64)]), row.said.sampled_ids.ravel()
        size = max(len(seen), int(kept.max(initial=0)) + 1, int(also.max(initial=0)) + 1)
        seen, there = (np.concatenate([array, np.zeros(size - len(array), np.int64)]) for array in (seen, there))
        seen += np.bincount(kept, minlength=size)
        there[also[also >= 0]] = 1
        one = gathered([row], temperatures, steps).positions
        most, lowest, widest = (int(array.max(initial=0)) for array in (one.counts, one.levels, one.tails))
        largest = max(largest[0], most), max(largest[1], lowest), max(largest[2], widest)
        if number % every == 0:
            sample.append(row)
            held += len(row.said.ids)
            if held > SAMPLE:
                every, sample = every * 2, sample[::2]
                held = sum(len(each.said.ids) for each in sample)
    ids = np.flatnonzero(seen + there)
    classes = np.searchsorted(_weights(), np.maximum(seen[ids], 1) * _weights()[0], "right") - 1
    found = gathered(sample, temperatures, steps).positions
    plain = _placed(found, ids, np.arange(len(ids)))
    kinds, number = kinds_of(len(ids), *plain.others())
    tree = Tree.of(ids, _weights()[classes], kinds, np.zeros((number, 9), np.int64))
    positions = _placed(found, ids, tree.place)
    tree = replace(tree, rows=fit_rows(tree, *positions.others(), positions.known))
    return Tables(temperatures, steps, ids, classes, kinds, tree, Learned.of(positions, largest))


def _weights() -> Ints:
    """Of ids seen once, half as often again, and so on: a class of 64 is kept of how often, not the number."""
    found = [16]
    while len(found) < 64:
        found.append(found[-1] * 3 // 2)
    return np.array(found, np.int64)


def gathered(rows: Seq[CapturedRow], temperatures: tuple[float, ...], steps: int) -> Whole:
    """The positions of rows, with raw ids for places."""
    words, begins, rests = [np.zeros(0, np.int64)], [np.zeros(0, bool)], [np.zeros((0, len(temperatures)), np.int64)]
    for row in rows:
        said, spoken = row.said, row.said.known
        words.append(np.array(row.completion_ids, np.int64)[np.array(row.trained, bool)])
        begins.append(np.arange(len(said.counts)) == 0)
        owner = np.repeat(np.arange(len(said.counts)), said.counts)
        columns = [np.bincount(owner, np.exp(said.log_probs / T - said.lse[owner, index]), len(spoken)) for index, T in enumerate(temperatures)]
        rests.append(rests_of(1 - np.stack(columns, 1)[spoken].astype(np.float64), steps))
    said_all = [row.said for row in rows]
    counts, ids, log_probs = (np.concatenate([np.zeros(0, kind), *(getattr(said, name) for said in said_all)]) for name, kind in _OF_SAID.items())
    own, starts = np.concatenate(words), np.concatenate(begins)
    return Whole(Positions(own, _before(own, starts), counts, ids, levels_of(log_probs, steps), np.concatenate(rests)), starts)


_OF_SAID = {"counts": np.int64, "ids": np.int64, "log_probs": np.float64}


def _before(words: Ints, begins: NDArray[np.bool_]) -> Ints:
    return np.where(begins, -1, np.concatenate([[-1], words])[: len(words)])


def _placed(positions: Positions, ids: Ints, place: Ints) -> Positions:
    words, sets = (place[np.searchsorted(ids, array)] for array in (positions.words, positions.sets))
    before = np.where(positions.before < 0, -1, place[np.searchsorted(ids, np.maximum(positions.before, ids[0] if len(ids) else 0))] if len(ids) else -1)
    order = np.lexsort((sets, positions.owner))
    return replace(positions, words=words, before=before, sets=sets[order], levels=positions.levels[order])


def block_of(rows: Seq[CapturedRow], tables: Tables) -> bytes:
    """Rows as bytes."""
    whole, writer = gathered(rows, tables.temperatures, tables.steps), Writer()
    code(writer, tables.tree, tables.learned, whole.begins, tables.placed(whole.positions))
    completion, trained = (np.array([each for row in rows for each in getattr(row, name)], np.int64) for name in ("completion_ids", "trained"))
    drawn = np.concatenate([row.said.sampled_ids.ravel() for row in rows])
    planes = {
        "lengths": np.array([len(row.completion_ids) for row in rows]),
        "trained": np.packbits(trained.astype(bool)),
        "untrained": np.searchsorted(tables.ids, completion[trained == 0]),
        "drawn": np.where(drawn < 0, NOTHING, np.searchsorted(tables.ids, drawn)),
        "drawn_levels": drawn_levels_of(np.concatenate([row.said.sampled_log_probs.ravel() for row in rows])),
    }
    return _joined([*(_squeezed(planes[name], kind) for name, kind in _PLANES.items()), writer.bytes()])


def rows_in(data: bytes, tables: Tables, draws: int) -> Iterator[Read]:
    """The rows of a block, each position's tokens from the likeliest level on. Raises ValueError where the bytes are not those of `block_of`."""
    *squeezed, coded = _parts(data)
    plane = {name: _loosened(part, kind) for part, (name, kind) in zip(squeezed, _PLANES.items(), strict=True)}
    lengths = plane["lengths"]
    trained = np.unpackbits(plane["trained"].astype(np.uint8))[: int(lengths.sum())].astype(bool)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    at = np.concatenate([[0], np.cumsum(trained)])[edges]
    begins = np.zeros(int(trained.sum()), bool)
    begins[at[:-1][np.diff(at) > 0]] = True
    found = code(Reader(coded), tables.tree, tables.learned, begins, None)
    completion = np.zeros(len(trained), np.int32)
    completion[trained], completion[~trained] = tables.tree.ids[found.words], tables.ids[plane["untrained"]]
    order = np.lexsort((found.sets, found.levels, found.owner))
    ids, levels = tables.tree.ids[found.sets[order]].astype(np.int32), found.levels[order]
    levels = levels.astype(np.uint8 if levels.max(initial=0) < 256 else np.int32)
    counts, rests = found.counts.astype(np.int32), found.tails.astype(np.int32)
    entries, spoken = (np.concatenate([[0], np.cumsum(each)])[at] for each in (found.counts, found.counts > 0))
    drawn = np.append(tables.ids, -1)[np.minimum(plane["drawn"], len(tables.ids))].reshape(len(begins), draws).astype(np.int32)
    drawn_levels = plane["drawn_levels"].reshape(len(begins), draws).astype(np.int32)
    for row in range(len(lengths)):
        word, here, entry, rest = (slice(each[row], each[row + 1]) for each in (edges, at, entries, spoken))
        yield Read(completion[word], trained[word], counts[here], ids[entry], levels[entry], rests[rest], drawn[here], drawn_levels[here])


def _kind(array: Ints) -> str:
    return "u1" if array.max(initial=0) < 2**8 else "<u2" if array.max(initial=0) < 2**16 else "<u4"


def _squeezed(plane: Ints, kind: str) -> bytes:
    """Bytes of one significance together, as they are alike, then deflated."""
    own = plane.astype(kind)
    return zlib.compress(own.view(np.uint8).reshape(len(own), own.itemsize).T.tobytes(), 9)


def _loosened(data: bytes, kind: str) -> Ints:
    raw = np.frombuffer(zlib.decompress(data), np.uint8)
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(raw.reshape(size, len(raw) // size).T).view(kind).ravel().astype(np.int64)


def _joined(parts: Seq[bytes]) -> bytes:
    """With how many, how long each is, and before all of it its CRC-32."""
    whole = np.array([len(parts), *map(len, parts)], "<u4").tobytes() + b"".join(parts)
    return np.array([zlib.crc32(whole)], "<u4").tobytes() + whole


def _parts(data: bytes) -> list[bytes]:
    if len(data) < 8 or int(np.frombuffer(data, "<u4", 1)[0]) != zlib.crc32(data[4:]):
        raise ValueError("its bytes are not those that were written")
    number = int(np.frombuffer(data, "<u4", 1, 4)[0])
    ends = np.cumsum(np.concatenate([[8 + 4 * number], np.frombuffer(data, "<u4", number, 8)])).tolist()
    return [data[start:end] for start, end in pairwise(ends)]
