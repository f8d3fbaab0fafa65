"""What a teacher said, row by row: `teacher_capture.jsonl`, appended to and never written over (MISSION S1).

A line is one row:

    {"id", "prompt_ids", "completion_ids", "trained": [bool], "positions": [{"top": [{"id", "lp"}], "tail_mass", "lse": {T: x}, "sampled": [{"id", "lp"}]} | null],
     "finish_reason": "stop" | "length" | "given", "told": 12, "teacher", "tokenizer", "template"}

`positions` has one entry per trained token of the completion, null where the teacher's words map to no token. `lp` is the natural logarithm of the teacher's probability at
T=1; `lse` of T is ln sum_v exp(lp_v / T) over its whole vocabulary, so that its log-probability at T is lp / T - lse exactly. `sampled` are draws from the tail at T=1.
"given" is an answer that the row came with, which the teacher only read. `told`, of an endpoint alone, is how many tokens of its own the answer had, its end left aside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.rows import Noun

CAPTURE, ERRORS, MANIFEST = "teacher_capture.jsonl", "errors.jsonl", "manifest.json"
DIGITS = 7
"""Decimals of a logarithm in the file: half a unit of the last is far below what fp32 can tell."""


ROUNDING = 0.01
"""By how much the probabilities of a position may exceed 1: endpoints round them."""


class About(Noun):
    """What a capture is of. A folder holds rows of one such description only. `gold` is the gold set that its rows were kept apart from; `precision` the number format of a teacher
    of this machine: rounded otherwise it is another teacher."""

    teacher: str
    tokenizer: str
    template: str
    gold: str
    answers: Literal["rows", "teacher"]
    temperatures: tuple[float, ...]
    k: int
    mass: float
    tail_samples: int = 0
    max_new_tokens: int = 0
    precision: str = ""


@dataclass(frozen=True)
class Said:
    """The teacher's word on N trained positions. counts: (N,) entries of each, 0 where it has none; ids, log_probs: (sum,) the most probable first; lse: (N, T);
    sampled_ids, sampled_log_probs: (N, M)."""

    counts: NDArray[np.int64]
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    lse: NDArray[np.float64]
    sampled_ids: NDArray[np.int64]
    sampled_log_probs: NDArray[np.float64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) positions that the teacher speaks of."""
        return self.counts > 0


@dataclass(frozen=True)
class CapturedRow:
    """One row. `trained` marks the tokens of the completion that count; `told` is how many tokens an endpoint wrote, in its own vocabulary and without the one that ends it."""

    id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    said: Said
    finish_reason: Literal["stop", "length", "given"]
    told: int | None = None

    @property
    def mapped(self) -> tuple[int, int]:
        """Tokens that were to be the same for teacher and student, and those that are: an endpoint's, or the trained ones of an answer that it read. None of what a teacher of
        the student's tokens wrote."""
        if self.told is None:
            return (len(self.said.counts), int(self.said.known.sum())) if self.finish_reason == "given" else (0, 0)
        return self.told, int(self.said.known[: len(self.said.known) - (self.finish_reason == "stop")].sum())


def write_line(row: CapturedRow, about: About) -> str:
    """The row as its line, without the line end."""
    said, at, positions = row.said, 0, list[Any]()
    ids, lps = said.ids.tolist(), [round(value, DIGITS) for value in said.log_probs.tolist()]
    for place, count in enumerate(said.counts.tolist()):
        if not count:
            positions.append(None)
            continue
        top = [{"id": ids[index], "lp": lps[index]} for index in range(at, at + count)]
        held = float(np.exp(said.log_probs[at : at + count]).sum())
        lse = {f"{T:g}": round(value, DIGITS) for T, value in zip(about.temperatures, said.lse[place].tolist(), strict=True)}
        position = {"top": top, "tail_mass": round(max(0.0, 1 - held), DIGITS + 2), "lse": lse}
        if about.tail_samples:
            drawn = zip(said.sampled_ids[place].tolist(), said.sampled_log_probs[place].tolist(), strict=True)
            position["sampled"] = [{"id": id, "lp": round(lp, DIGITS)} for id, lp in drawn if id >= 0]
        positions.append(position)
        at += count
    hashes = {"teacher": about.teacher, "tokenizer": about.tokenizer, "template": about.template}
    whole = {"id": row.id, "prompt_ids": row.prompt_ids, "completion_ids": row.completion_ids, "trained": row.trained, "positions": positions}
    ended = {"finish_reason": row.finish_reason, **({} if row.told is None else {"told": row.told})}
    return json.dumps({**whole, **ended, **hashes}, ensure_ascii=False, separators=(",", ":"))


def read_line(line: str, about: About) -> CapturedRow:
    """The row of a line. Raises ValueError, KeyError, TypeError or OverflowError where it is none, and ValueError where it is of another teacher, tokenizer or template."""
    given = json.loads(line)
    strange = [name for name in ("teacher", "tokenizer", "template") if given[name] != getattr(about, name)]
    if strange:
        raise ValueError(f"is of another {' and '.join(strange)} than the manifest says")
    if given["finish_reason"] not in ("stop", "length", "given"):
        raise ValueError("has an unknown finish_reason")
    if len(given["completion_ids"]) != len(given["trained"]) or sum(given["trained"]) != len(given["positions"]):
        raise ValueError("has not one position for each trained token")
    found = [position or {"top": [], "lse": {}} for position in given["positions"]]
    names = [f"{T:g}" for T in about.temperatures]
    entries = [entry for position in found for entry in position["top"]]
    drawn = [[(one["id"], one["lp"]) for one in position.get("sampled", ())] for position in found]
    filled = np.array([[*one, *[(-1, 0.0)] * (about.tail_samples - len(one))] for one in drawn], np.float64).reshape(len(found), about.tail_samples, 2)
    said = Said(
        np.array([len(position["top"]) for position in found], np.int64),
        np.array([entry["id"] for entry in entries], np.int64),
        np.array([entry["lp"] for entry in entries], np.float64),
        np.array([[position["lse"][name] if position["top"] else 0.0 for name in names] for position in found], np.float64).reshape(len(found), len(names)),
        filled[:, :, 0].astype(np.int64),
        filled[:, :, 1],
    )
    if not ((said.log_probs <= 1e-6).all() and np.isfinite(said.log_probs).all() and np.isfinite(said.lse).all() and (said.ids >= 0).all()):
        raise ValueError("has a log-probability above 0 or that is no number, or a token below 0")
    kept = np.bincount(np.repeat(np.arange(len(found)), said.counts), np.exp(said.log_probs), len(found))
    if len(kept) and kept.max() > 1 + ROUNDING:
        raise ValueError(f"has probabilities that sum to {kept.max():.3f} at its trained token {int(kept.argmax()) + 1}")
    told = given.get("told")
    if told is not None and (type(told) is not int or told < 0):
        raise ValueError("has a number of tokens that is none")
    return CapturedRow(given["id"], tuple(given["prompt_ids"]), tuple(given["completion_ids"]), tuple(given["trained"]), said, given["finish_reason"], told)


def about_of(folder: Path) -> About:
    """What the capture in a folder is of. Raises InputError where there is none."""
    try:
        return About.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as why:
        raise InputError(Problem(str(folder), "holds no teacher capture", "make one: planish capture recipe.yaml --teacher MODEL --out FOLDER")) from why


def rows_of(folder: Path, about: About | None = None) -> Iterator[CapturedRow]:
    """The rows in order. What stands behind the last line end was torn by a kill and is left out. Raises InputError naming the line that is wrong."""
    about = about or about_of(folder)
    path = folder / CAPTURE
    if not path.is_file():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield read_line(line.decode("utf-8"), about)
            except (ValueError, KeyError, TypeError, OverflowError) as why:
                raise InputError(Problem(f"{path}:{number}", f"is no captured row: {why}", "take the line out; the row is captured again")) from why


def mend(path: Path) -> int:
    """Cut off a last line that a kill tore; gives its bytes. Nothing before it is touched."""
    if not path.is_file():
        return 0
    with path.open("rb+") as stream:
        size = stream.seek(0, 2)
        at = size
        while at:
            begin = max(0, at - 2**16)
            stream.seek(begin)
            found = stream.read(at - begin).rfind(b"\n")
            if found >= 0:
                at = begin + found + 1
                break
            at = begin
        stream.truncate(at)
        return size - at


def append(path: Path, lines: Iterable[str]) -> None:
    """Add whole lines to the end, in one write each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        for line in lines:
            stream.write(f"{line}\n".encode())
        stream.flush()
