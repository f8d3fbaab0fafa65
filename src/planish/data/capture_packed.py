"""A capture made small: the same rows as a safetensors file, in blocks that are decoded when they are asked for (MISSION S1).

What is lost: a position keeps at most `k` tokens, or as few as hold `mass`; a kept logarithm is rounded to the nearest 1 / `steps`, after which the kept probabilities are
scaled so that they and the tail are 1; the tail's own logarithm is rounded to 1/1024 at each temperature. What is kept exactly: ids, which positions have a teacher,
what was drawn from the tail (its logarithms rounded likewise). Prompts are kept as a hash: a student renders them itself, and is refused where it renders others.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.capture_file import CAPTURE, About, CapturedRow, about_of, rows_of
from planish.errors import InputError, Problem
from planish.rows import canonical_json
from planish.store.objects import write_atomic

PACKED = "capture.safetensors"
STEPS, TAIL_STEPS, BLOCK, FORMAT = 24, 1024, 128, 1
DECODED = 64
"""Blocks kept decoded: 64 x 128 rows."""
Planes = dict[str, NDArray[Any]]
_TYPES = {
    "lengths": "<i4",
    "words": "<u4",
    "trained": "u1",
    "counts": "<u2",
    "ranks": "<u4",
    "falls": "<u2",
    "tails": "<u2",
    "drawn": "<u4",
    "drawn_lps": "<u2",
}


class Kept(NamedTuple):
    """N positions at one temperature. counts: (N,), 0 where there is no teacher; ids, log_probs: (sum,); tail: (N,) ln of what is left; drawn: (N, M), -1 for none, with
    drawn_log_probs at this temperature and drawn_at_one at T=1."""

    counts: NDArray[np.int64]
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    tail: NDArray[np.float64]
    drawn: NDArray[np.int64]
    drawn_log_probs: NDArray[np.float64]
    drawn_at_one: NDArray[np.float64]


@dataclass(frozen=True)
class PackedRow:
    """One row: the hash of its prompt's ids, the completion with what of it counts, and each position at every temperature."""

    id: str
    prompt: str
    completion_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    finish_reason: str
    said: dict[float, Kept]


def prompt_hash(ids: Iterable[int]) -> str:
    """Of a prompt's token ids."""
    return hashlib.sha256(np.array(list(ids), "<i4").tobytes()).hexdigest()[:16]


def pack(folder: Path, k: int | None = None, mass: float | None = None, steps: int = STEPS) -> Path:
    """Write the compact file beside the capture, whole or not at all. `k` and `mass` keep fewer tokens of a position than were captured, `steps` is how finely a
    logarithm is kept. Raises InputError."""
    from safetensors.numpy import save

    about = about_of(folder)
    if about.tail_samples and (k or mass):
        why = "was drawn beside what was captured, so keeping fewer tokens would leave a gap between the two"
        raise InputError(Problem("capture.tail_samples", why, "pack it whole, or capture it with the smaller k"))
    k, mass = k or about.k, mass or about.mass
    seen: dict[int, int] = {}
    for row in rows_of(folder, about):
        for id in (*row.completion_ids, *row.said.ids.tolist(), *row.said.sampled_ids.ravel().tolist()):
            seen[id] = seen.get(id, 0) + 1
    by_rank = np.array(sorted((id for id in seen if id >= 0), key=lambda id: (-seen[id], id)), np.int32)
    ranks = {int(id): rank for rank, id in enumerate(by_rank.tolist())}
    arrays, names = dict[str, NDArray[Any]](), list[Any]()
    rows, number = rows_of(folder, about), 0
    while block := list(islice(rows, BLOCK)):
        names += [[row.id, prompt_hash(row.prompt_ids), row.finish_reason] for row in block]
        for name, plane in _planes([_cut(row, k, mass) for row in block], about, ranks, steps).items():
            arrays[f"{number}.{name}"] = np.frombuffer(_squeezed(plane.astype(_TYPES[name])), np.uint8)
        number += 1
    arrays["by_rank"] = np.frombuffer(_squeezed(by_rank.astype("<u4")), np.uint8)
    arrays["rows"] = np.frombuffer(zlib.compress(canonical_json(names).encode(), 9), np.uint8)
    made = {
        "format": FORMAT,
        "size": (folder / CAPTURE).stat().st_size,
        "k": k,
        "mass": mass,
        "steps": steps,
        "about": about.model_dump(mode="json"),
        "blocks": number,
    }
    write_atomic(folder / PACKED, save(arrays, {"capture": canonical_json(made)}))
    return folder / PACKED


def _cut(row: CapturedRow, k: int, mass: float) -> CapturedRow:
    """Fewer tokens of each position, where fewer will do."""
    said, keep, at = row.said, list[NDArray[np.bool_]](), 0
    for count in said.counts.tolist():
        held = np.exp(said.log_probs[at : at + count]).cumsum()
        wanted = min(k, int((held < mass).sum()) + 1) if mass < 1 else k
        keep.append(np.arange(count) < wanted)
        at += count
    counts = np.array([int(each.sum()) for each in keep], np.int64)
    chosen = np.concatenate(keep) if keep else np.zeros(0, bool)
    less = type(said)(counts, said.ids[chosen], said.log_probs[chosen], said.lse, said.sampled_ids, said.sampled_log_probs)
    return CapturedRow(row.id, row.prompt_ids, row.completion_ids, row.trained, less, row.finish_reason)


def _planes(rows: Seq[CapturedRow], about: About, ranks: dict[int, int], steps: int) -> Planes:
    """A block's numbers by kind, each kind in one run."""
    said = [row.said for row in rows]
    words = [id for row in rows for id in row.completion_ids]
    falls, tails = [], []
    for one in said:
        at = 0
        for place, count in enumerate(one.counts.tolist()):
            if not count:
                continue
            rounded = np.rint(-one.log_probs[at : at + count] * steps).astype(np.int64)
            falls.append(np.diff(rounded, prepend=0))
            scaled = one.log_probs[at : at + count][None] / np.array(about.temperatures)[:, None] - one.lse[place][:, None]
            left = np.clip(1 - np.exp(scaled).sum(1), 1e-12, 1.0)
            tails.append(np.rint(-np.log(left) * TAIL_STEPS))
            at += count
    drawn = np.concatenate([one.sampled_ids.ravel() for one in said])
    return {
        "lengths": np.array([len(row.completion_ids) for row in rows]),
        "words": np.array([ranks[id] for id in words], np.int64),
        "trained": np.array([flag for row in rows for flag in row.trained], np.int64),
        "counts": np.concatenate([one.counts for one in said]),
        "ranks": np.array([ranks[id] for one in said for id in one.ids.tolist()], np.int64),
        "falls": np.concatenate(falls).clip(0, 65535) if falls else np.zeros(0),
        "tails": np.concatenate(tails) if tails else np.zeros(0),
        "drawn": np.array([ranks.get(id, 2**32 - 1) for id in drawn.tolist()], np.int64),
        "drawn_lps": np.rint(-np.concatenate([one.sampled_log_probs.ravel() for one in said]) * steps).clip(0, 65535),
    }


def _squeezed(plane: NDArray[Any]) -> bytes:
    """Bytes of one significance together, as they are alike, then deflated."""
    return zlib.compress(plane.view(np.uint8).reshape(len(plane), plane.itemsize).T.tobytes(), 9)


def _loosened(data: NDArray[np.uint8], kind: str) -> NDArray[np.int64]:
    raw = np.frombuffer(zlib.decompress(data.tobytes()), np.uint8)
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(raw.reshape(size, len(raw) // size).T).view(kind).ravel().astype(np.int64)


class Packed:
    """A compact capture, read block by block. Raises InputError where the file is missing, is of another version of the capture, or is none."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        path = folder / PACKED
        if not path.is_file():
            about_of(folder)
            pack(folder)
        try:
            opened: Any = safe_open(str(path), framework="numpy")
            self._file = opened
            self.made: dict[str, Any] = json.loads(self._file.metadata()["capture"])
            self.about = About.model_validate(self.made["about"])
        except Exception as why:
            raise InputError(Problem(str(path), f"is no compact capture: {why}", "delete it; it is made again from teacher_capture.jsonl")) from why
        jsonl = folder / CAPTURE
        if self.made["format"] != FORMAT or (jsonl.is_file() and jsonl.stat().st_size != self.made["size"]):
            raise InputError(Problem(str(path), "is older than teacher_capture.jsonl", "give planish capture again: it goes on, and packs what is there"))
        self._blocks: dict[int, list[PackedRow]] = {}

    @cached_property
    def names(self) -> list[tuple[str, str, str]]:
        """(id, prompt hash, finish reason) of each row, in order."""
        raw = json.loads(zlib.decompress(self._file.get_tensor("rows").tobytes()))
        return [(id, prompt, finish) for id, prompt, finish in raw]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where the row of an id stands."""
        return {id: place for place, (id, _, _) in enumerate(self.names)}

    @cached_property
    def _by_rank(self) -> NDArray[np.int64]:
        return np.append(_loosened(self._file.get_tensor("by_rank"), "<u4"), -1)

    def row(self, place: int) -> PackedRow:
        """One row."""
        block = place // BLOCK
        if block not in self._blocks:
            while len(self._blocks) >= DECODED:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[block] = list(self._decoded(block))
        return self._blocks[block][place % BLOCK]

    def _decoded(self, block: int) -> Iterator[PackedRow]:
        plane = {name: _loosened(self._file.get_tensor(f"{block}.{name}"), kind) for name, kind in _TYPES.items()}
        temperatures = np.array(self.about.temperatures)
        draws, words, at, entry, spoken = self.about.tail_samples, 0, 0, 0, 0
        for place, length in enumerate(plane["lengths"].tolist()):
            trained = plane["trained"][words : words + length].astype(bool)
            counts = plane["counts"][at : at + int(trained.sum())]
            entries, known = slice(entry, entry + int(counts.sum())), int((counts > 0).sum())
            tails = -plane["tails"][spoken * len(temperatures) : (spoken + known) * len(temperatures)].reshape(known, len(temperatures)) / TAIL_STEPS
            drawn = self._by_rank[np.minimum(plane["drawn"][at * draws : (at + len(counts)) * draws], len(self._by_rank) - 1)].reshape(len(counts), draws)
            drawn_lps = -plane["drawn_lps"][at * draws : (at + len(counts)) * draws].reshape(len(counts), draws) / self.made["steps"]
            kept = _at_each(temperatures, self.made["steps"], counts, self._by_rank[plane["ranks"][entries]], plane["falls"][entries], tails, drawn, drawn_lps)
            id, prompt, finish = self.names[block * BLOCK + place]
            completion = tuple(self._by_rank[plane["words"][words : words + length]].tolist())
            yield PackedRow(id, prompt, completion, tuple(trained.tolist()), finish, kept)
            words, at, entry, spoken = words + length, at + len(counts), entry + int(counts.sum()), spoken + known


def _at_each(
    temperatures: NDArray[np.float64],
    steps: int,
    counts: NDArray[np.int64],
    ids: NDArray[np.int64],
    falls: NDArray[np.int64],
    tails: NDArray[np.float64],
    drawn: NDArray[np.int64],
    drawn_lps: NDArray[np.float64],
) -> dict[float, Kept]:
    """The positions at each temperature; the kept probabilities and the tail are 1 together."""
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    total = np.concatenate([[0], np.cumsum(falls)])
    lps = -(total[1:] - total[starts[owner]]) / steps
    found = {}
    for index, T in enumerate(temperatures.tolist()):
        tail = np.zeros(len(counts))
        tail[counts > 0] = tails[:, index]
        raw = np.bincount(owner, np.exp(lps / T), minlength=len(counts))
        with np.errstate(divide="ignore"):
            shift = np.where(counts > 0, np.log1p(-np.minimum(np.exp(tail), 1 - 1e-9)) - np.log(raw), 0.0)
        found[T] = Kept(counts, ids, lps / T + shift[owner], tail, drawn, drawn_lps / T + shift[:, None], drawn_lps)
    return found
