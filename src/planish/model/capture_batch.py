"""Captured positions as the teacher of a micro-batch's scored rows, and the checks that they are the same tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from planish.data.capture_packed import Kept, Packed
from planish.errors import InputError, Problem, RunFailed
from planish.model.head_terms import Teacher

NONE = -1
"""The place of a row that no capture speaks of: it is trained on its own tokens alone."""


class Batch(NamedTuple):
    """The teacher of R rows, and for `sampled` the same with the drawn tokens behind the kept ones and the weights (R, K + M) that make their sum unbiased."""

    teacher: Teacher
    sampled: tuple[Teacher, Tensor] | None


@lru_cache(maxsize=4)
def _opened(folder: str, changed: int) -> Packed:
    return Packed(Path(folder))


def opened(folder: str) -> Packed:
    """The compact capture of a folder, kept open until the files change. Raises InputError."""
    path = Path(folder)
    if not folder or not path.is_dir():
        raise InputError(Problem("objective.capture", f"there is no folder {folder!r}", "make one: planish capture recipe.yaml --teacher MODEL --out FOLDER"))
    return _opened(str(path.resolve()), max((file.stat().st_mtime_ns for file in path.iterdir()), default=0))


def batch(packed: Packed, places: Seq[int], counts: Seq[int], target: Tensor, temperature: float, *, sampled: bool = False) -> Batch:
    """The teacher of the scored rows. places: for each sequence its row in the capture, or NONE; counts: its scored tokens; target: (R,) all of them in that order.

    Raises RunFailed where a captured token is not the one that is trained: the capture was exchanged after the rows were read.
    """
    tokens, parts, at = target.tolist(), list[Kept](), 0
    for place, count in zip(places, counts, strict=True):
        if place == NONE:
            parts.append(_nothing(count, packed.about.tail_samples))
        else:
            row = packed.row(place)
            own = [id for id, flag in zip(row.completion_ids, row.trained, strict=True) if flag]
            if own != tokens[at : at + count]:
                raise RunFailed(
                    Problem(f"objective.capture: row {row.id}", "holds other tokens than are trained", "start the run again: its rows are read anew")
                )
            parts.append(row.said[temperature])
        at += count
    return _batch(parts, temperature, target, sampled, [NONE if place == NONE else place for place in places], packed)


def _batch(parts: Seq[Kept], temperature: float, target: Tensor, sampled: bool, places: Seq[int], packed: Packed) -> Batch:
    counts = np.concatenate([part.counts for part in parts])
    ids, log_probs = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "log_probs"))
    tail = np.concatenate([part.tail for part in parts])
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    width = max(1, int(counts.max(initial=0)))
    valid = np.arange(width) < counts[:, None]
    taken = np.minimum(starts[:, None] + np.where(valid, np.arange(width), 0), max(0, len(ids) - 1))
    known = counts > 0
    wide_ids, wide_lps = (ids[taken], log_probs[taken]) if len(ids) else (np.zeros_like(taken), np.zeros(taken.shape))

    def tensor(array: np.ndarray, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(target.device, kind)

    teacher = Teacher(
        tensor(wide_ids, torch.long),
        tensor(wide_lps),
        temperature,
        tensor(valid, torch.bool),
        tensor(np.where(known, tail, -27.6)),
        tensor(known, torch.float32),
    )
    if not sampled:
        return Batch(teacher, None)
    drawn, drawn_lps, at_one = (np.concatenate([getattr(part, name) for part in parts]) for name in ("drawn", "drawn_log_probs", "drawn_at_one"))
    tail_at_one = np.concatenate([_tail_at_one(packed, place, part) for place, part in zip(places, parts, strict=True)])
    there = drawn >= 0
    weight = np.where(there, np.exp(drawn_lps + tail_at_one[:, None] - at_one) / max(1, drawn.shape[1]), 0.0)
    kept = np.where(valid, np.exp(wide_lps), 0.0)
    both = Teacher(
        tensor(np.concatenate([wide_ids, np.where(there, drawn, 0)], 1), torch.long),
        tensor(np.concatenate([wide_lps, drawn_lps], 1)),
        temperature,
        known=tensor(known, torch.float32),
    )
    return Batch(teacher, (both, tensor(np.concatenate([kept, weight], 1))))


def _tail_at_one(packed: Packed, place: int, part: Kept) -> np.ndarray:
    return np.zeros(len(part.counts)) if place == NONE else packed.row(place).said[1.0].tail


def _nothing(count: int, draws: int) -> Kept:
    """Positions without a teacher."""
    none, drawn = np.zeros(count, np.int64), np.zeros((count, draws))
    return Kept(none, np.zeros(0, np.int64), np.zeros(0), np.zeros(count), np.full((count, draws), -1), drawn, drawn)
