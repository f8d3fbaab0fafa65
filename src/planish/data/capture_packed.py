"""A capture made small: the same rows as a safetensors file, in blocks that are decoded when they are asked for (MISSION S1).

What is lost: a position keeps at most `k` tokens, or as few as hold `mass`, and those of a probability of `least`; a kept logarithm is rounded to a level
(planish.data.capture_rounding), after which the kept probabilities are scaled so that they and the tail are 1; tokens of one level lose their order; the tail's log-odds are
rounded at each temperature. What is kept exactly: ids, which positions have a teacher, and what was drawn from the tail (its logarithms rounded to 1/64 of a nat). Prompts are
kept as a hash: a student renders them itself, and is refused where it renders others.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.capture_blocks import Read, Tables, block_of, learn, rows_in
from planish.data.capture_file import CAPTURE, About, CapturedRow, about_of, rows_of
from planish.data.capture_rounding import drawn_of, log_probs_of, scaled
from planish.errors import InputError, Problem
from planish.rows import canonical_json
from planish.store.objects import write_atomic

PACKED = "capture.safetensors"
STEPS, BLOCK, FORMAT = 4, 128, 2
DECODED = 2**30
"""Bytes of blocks that are kept decoded: about 4 million positions of 40 tokens. Where all of a capture fits, each block is decoded once, in whatever order rows are asked."""


class Kept(NamedTuple):
    """N positions at one temperature. counts: (N,), 0 where there is no teacher; ids, log_probs: (sum,), the most probable level first; tail: (N,) ln of what is left; drawn:
    (N, M), -1 for none, with drawn_log_probs at this temperature and drawn_at_one at T=1."""

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


def pack(folder: Path, k: int | None = None, mass: float | None = None, steps: int = STEPS, least: float = 0.0) -> Path:
    """Write the compact file beside the capture, whole or not at all. `k`, `mass` and `least` keep fewer tokens of a position than were captured, the likeliest always; `steps`
    is how finely a logarithm is kept. Raises InputError."""
    from safetensors.numpy import save

    about = about_of(folder)
    if about.tail_samples and (k or mass or least):
        why = "was drawn beside what was captured, so keeping fewer tokens would leave a gap between the two"
        raise InputError(Problem("capture.tail_samples", why, "pack it whole, or capture it with the smaller k"))
    k, mass = k or about.k, mass or about.mass
    tables = learn((_cut(row, k, mass, least) for row in rows_of(folder, about)), about.temperatures, steps)
    arrays, names, rows = dict[str, NDArray[Any]](), list[Any](), (_cut(row, k, mass, least) for row in rows_of(folder, about))
    while block := list(islice(rows, BLOCK)):
        arrays[str(len(arrays))] = np.frombuffer(block_of(block, tables), np.uint8)
        names += [[row.id, prompt_hash(row.prompt_ids), row.finish_reason] for row in block]
    made = {
        "format": FORMAT,
        "size": (folder / CAPTURE).stat().st_size,
        "k": k,
        "mass": mass,
        "least": least,
        "steps": steps,
        "about": about.model_dump(mode="json"),
    }
    arrays["tables"] = np.frombuffer(tables.written(), np.uint8)
    arrays["rows"] = np.frombuffer(zlib.compress(canonical_json(names).encode(), 9), np.uint8)
    write_atomic(folder / PACKED, save(arrays, {"capture": canonical_json(made)}))
    return folder / PACKED


def _cut(row: CapturedRow, k: int, mass: float, least: float) -> CapturedRow:
    """Fewer tokens of each position, where fewer will do."""
    said, keep, at = row.said, list[NDArray[np.bool_]](), 0
    for count in said.counts.tolist():
        p = np.exp(said.log_probs[at : at + count])
        wanted = min(k, int((p.cumsum() < mass).sum()) + 1) if mass < 1 else k
        keep.append(np.arange(count) < min(wanted, max(1, int((p >= least).sum()))))
        at += count
    counts = np.array([int(each.sum()) for each in keep], np.int64)
    chosen = np.concatenate(keep) if keep else np.zeros(0, bool)
    less = type(said)(counts, said.ids[chosen], said.log_probs[chosen], said.lse, said.sampled_ids, said.sampled_log_probs)
    return CapturedRow(row.id, row.prompt_ids, row.completion_ids, row.trained, less, row.finish_reason)


class Packed:
    """A compact capture, read block by block. Raises InputError where the file is missing, is of another version of the capture or of the format, or is none."""

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
        if self.made["format"] != FORMAT:
            again = f"capture again: {CAPTURE}, of which it is made, is not beside it"
            fix = f"delete it; it is made again from {CAPTURE}" if jsonl.is_file() else again
            raise InputError(Problem(str(path), f"is of format {self.made['format']}, and format {FORMAT} is read here", fix))
        if jsonl.is_file() and jsonl.stat().st_size != self.made["size"]:
            raise InputError(Problem(str(path), "is older than teacher_capture.jsonl", "give planish capture again: it goes on, and packs what is there"))
        self._blocks: dict[int, list[Read]] = {}
        self._held = 0

    @cached_property
    def names(self) -> list[tuple[str, str, str]]:
        """(id, prompt hash, finish reason) of each row, in order."""
        try:
            raw = json.loads(zlib.decompress(self._file.get_tensor("rows").tobytes()))
            return [(id, prompt, finish) for id, prompt, finish in raw]
        except (ValueError, zlib.error) as why:
            raise self._damaged(why) from why

    @cached_property
    def places(self) -> dict[str, int]:
        """Where the row of an id stands."""
        return {id: place for place, (id, _, _) in enumerate(self.names)}

    @cached_property
    def _tables(self) -> Tables:
        return Tables.read(self._tensor("tables"), self.made["steps"])

    @property
    def largest(self) -> int:
        """The highest token id that it speaks of; -1 where there is none."""
        try:
            return int(self._tables.ids.max(initial=-1))
        except (ValueError, zlib.error) as why:
            raise self._damaged(why) from why

    def _tensor(self, name: str) -> bytes:
        return bytes(self._file.get_tensor(name).tobytes())

    def row(self, place: int) -> PackedRow:
        """One row."""
        row, said, steps = self._block(place // BLOCK)[place % BLOCK], dict[float, Kept](), self.made["steps"]
        counts, ids, drawn, levels, rests, drawn_levels = (
            array.astype(np.int64) for array in (row.counts, row.ids, row.drawn, row.levels, row.rests, row.drawn_levels)
        )
        at_one, log_probs = drawn_of(drawn_levels), log_probs_of(levels, steps)
        for index, T in enumerate(self.about.temperatures):
            at_T, tail, shift = scaled(counts, log_probs, rests[:, index], steps, T)
            said[T] = Kept(counts, ids, at_T, tail, drawn, at_one / T + shift[:, None], at_one)
        id, prompt, finish = self.names[place]
        return PackedRow(id, prompt, tuple(row.completion.tolist()), tuple(row.trained.tolist()), finish, said)

    def _block(self, number: int) -> list[Read]:
        if number not in self._blocks:
            while self._blocks and self._held > DECODED:
                self._held -= _bytes(self._blocks.pop(next(iter(self._blocks))))
            try:
                found = list(rows_in(self._tensor(str(number)), self._tables, self.about.tail_samples))
            except (ValueError, zlib.error) as why:
                raise self._damaged(why) from why
            self._blocks[number] = found
            self._held += _bytes(found)
        return self._blocks[number]

    def _damaged(self, why: Exception) -> InputError:
        return InputError(Problem(str(self.folder / PACKED), f"is damaged: {why}", f"delete it; it is made again from {CAPTURE}"))


def _bytes(rows: Iterable[Read]) -> int:
    return sum(array.nbytes for row in rows for array in row)
