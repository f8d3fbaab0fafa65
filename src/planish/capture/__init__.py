"""Teacher capture: a teacher runs once over the training rows, and what it finds likely is kept for `kd`, or what it writes for `sft` (MISSION S1, S3)."""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planish import pipeline
from planish.capture import aligned, local, remote
from planish.capture.asked import How as How
from planish.capture.resumed import begun, held, parts, torn
from planish.data import dataset
from planish.data.capture_file import CAPTURE, ERRORS, MANIFEST, About, CapturedRow, about_of, append, rows_of, write_line
from planish.data.capture_packed import PACKED, pack
from planish.data.dataset import Dataset
from planish.errors import InputError, Problem, RunFailed
from planish.model import bundled
from planish.model.chat import Chat
from planish.model.live_teacher import config_of
from planish.progress import Progress, Silent
from planish.recipe import Recipe
from planish.rows import ChatRow
from planish.store.objects import write_atomic

LEAST_MAPPED = 0.95
MAPPED_AFTER = 200
"""A teacher's tokens after which the share that is mapped is judged while it still runs; it is judged at the end whatever their number. Rows that were there already count: what
was refused is refused when it is asked again."""


@dataclass(frozen=True)
class Captured:
    """What was kept. `cut` rows ended at the length limit and are not trained on; `failed` ones are in errors.jsonl."""

    folder: Path
    rows: int
    new: int
    failed: int
    cut: int
    scored_tokens: int
    covered: float
    kept_per_token: float
    jsonl_bytes: int
    packed_bytes: int

    def as_json(self) -> dict[str, Any]:
        """For scripts; every figure is measured."""
        return {**vars(self), "folder": str(self.folder), "packed_bytes_per_token": self.packed_bytes / max(1, self.scored_tokens)}

    def text(self) -> str:
        """For people."""
        per = self.packed_bytes / max(1, self.scored_tokens)
        left = f"; {self.cut} were cut at the length limit and are not trained on" if self.cut else ""
        failed = f"; {self.failed} rows failed, see {self.folder / ERRORS}" if self.failed else ""
        return (
            f"{self.folder}: {self.rows} rows ({self.new} new), {self.scored_tokens:,} scored tokens, {self.covered:.1%} with a teacher, {self.kept_per_token:.1f} kept of each, "
            f"{self.jsonl_bytes / 1e6:.1f} MB as lines, {per:.1f} bytes a token packed{left}{failed}\n  train on it: objective: {{kd: {{capture: {self.folder}}}}}"
        )


def prepared(recipe: Recipe, workspace: Path, progress: Progress | None = None) -> Dataset:
    """The recipe's data set; it is prepared where it is not. Its gold rows cannot be had from it (MISSION R-4)."""
    outcome = pipeline.run(recipe.model_copy(update={"train": []}), workspace=workspace, until="prepare", progress=progress or Silent())
    folder = outcome.stages["prepare"].folder
    assert folder is not None  # a stage that failed has raised
    return dataset.read(folder)


def student(recipe: Recipe) -> Path:
    """The folder of the model that is trained, whose tokens and template count."""
    return bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)


def dialogues(data: Dataset, most: int | None = None) -> list[ChatRow]:
    """The training and validation rows as they are trained on; only rows that ask something can be answered."""
    found = [data.task.conversation(row) for split in ("train", "validation") for row in data.rows(split)]
    return found[:most]


def capture(
    recipe: Recipe, how: How, out: Path, *, workspace: Path = Path(".planish"), progress: Progress | None = None, data: Dataset | None = None
) -> Captured:
    """Ask the teacher of every row that is not in `out` yet, and append its word; then write the compact file beside it.

    The budget (tokens, time, bytes) is said before the teacher begins. Raises InputError for a teacher of another tokenizer, one without log-probabilities, an address that
    may not be called, or a folder that holds another capture; a row that fails is set aside with its reason.
    """
    progress = progress or Silent()
    _usable(out)
    if how.least and how.tail_samples:
        why = "would leave a gap between what is kept and what was drawn beside it"
        raise InputError(Problem("--least, --tail-samples", why, "leave one of them out"))
    data = data or prepared(recipe, workspace, progress)
    chat = Chat.load(student(recipe))
    how = replace(how, vocabulary=int(config_of(student(recipe)).vocab_size))
    teacher: Any = (remote if how.remote else aligned if how.align else local).teacher(how, chat, recipe.source.parent if recipe.source else None)
    about = About(
        teacher=teacher.identity,
        tokenizer=chat.tokenizer_hash,
        template=chat.template_hash,
        gold=data.manifest.gold_sha256,
        answers=how.answers,
        temperatures=teacher.temperatures,
        k=teacher.k,
        mass=how.mass,
        tail_samples=how.tail_samples,
        max_new_tokens=how.max_new_tokens if how.answers == "teacher" else 0,
        precision=teacher.precision,
    )
    out.mkdir(parents=True, exist_ok=True)
    with held(out):
        done, mapped = _begun(out, about, progress)
        rows = dialogues(data, how.rows)
        left = [row for row in rows if row.id not in done]
        progress.say(teacher.budget(left, how))
        failed = _run(teacher, rows, done, mapped, out, about, progress)
        pack(out, least=how.least)
        return _summed(out, about, len(left) - failed, failed)


def _usable(out: Path) -> None:
    """Before a teacher is loaded. Raises InputError for a file, and for a folder with anything else in it."""
    if out.exists() and not out.is_dir():
        raise InputError(Problem(str(out), "is a file", "give the folder that the capture is added to"))
    if (out / PACKED).is_file() and not (out / CAPTURE).is_file():
        why = f"holds {PACKED} without the {CAPTURE} that it was made of, so nothing can be added to it and it would be written over"
        raise InputError(Problem(str(out), why, f"give a new folder, or put {CAPTURE} back"))
    begun = (out / CAPTURE).is_file() and (out / CAPTURE).stat().st_size
    if out.is_dir() and not begun and {path.name for path in out.iterdir() if not torn(path)} - {MANIFEST, ERRORS, CAPTURE, PACKED}:
        raise InputError(Problem(str(out), "is not empty and holds no capture", "give a new folder"))


def _begun(out: Path, about: About, progress: Progress) -> tuple[set[str], tuple[int, int]]:
    """The rows that are there, and their tokens that were to be mapped and are. Raises InputError for a folder with another capture, and for one that is not mapped."""
    there = about_of(out) if (out / CAPTURE).is_file() and (out / CAPTURE).stat().st_size else None
    if not begun(out, CAPTURE, about, there, progress):
        return set(), (0, 0)
    done, tokens, mapped = set[str](), 0, 0
    for row in rows_of(out, about):
        done.add(row.id)
        tokens, mapped = tokens + row.mapped[0], mapped + row.mapped[1]
    progress.say(f"  {len(done)} rows are there already")
    if tokens >= MAPPED_AFTER:
        _require_mapped(tokens, mapped)
    return done, (tokens, mapped)


def _run(teacher: Any, rows: Seq[ChatRow], done: set[str], before: tuple[int, int], out: Path, about: About, progress: Progress) -> int:
    """Append what the teacher says of the rows that are not done; gives how many failed."""
    failed, (tokens, mapped) = list[dict[str, str]](), before
    try:
        with progress.bar("capture", len(rows)) as advance:
            for part, asked in parts(rows, done, teacher):
                lines = []
                for row, found in zip(asked, teacher.captured(asked) if asked else (), strict=True):
                    if row.id in done:
                        continue
                    if isinstance(found, CapturedRow):
                        lines.append(write_line(found, about))
                        tokens, mapped = tokens + found.mapped[0], mapped + found.mapped[1]
                    else:
                        failed.append({"id": row.id, "why": str(found)})
                append(out / CAPTURE, lines)
                if tokens >= MAPPED_AFTER:
                    _require_mapped(tokens, mapped)
                advance(len(part), f"{len(failed)} failed" if failed else "")
    finally:
        write_atomic(out / ERRORS, ((json.dumps(one, ensure_ascii=False) + "\n").encode() for one in failed))
    _require_mapped(tokens, mapped)
    if failed and len(failed) == len(rows):
        raise RunFailed(Problem(str(out), f"every one of the {len(rows)} rows failed, the first: {failed[0]['why']}", f"see {out / ERRORS}"))
    return len(failed)


def _require_mapped(tokens: int, mapped: int) -> None:
    if mapped < LEAST_MAPPED * tokens:
        why = f"{mapped} of {tokens} tokens ({mapped / tokens:.1%}) are the same for teacher and student: at least {LEAST_MAPPED:.0%} must be"
        raise InputError(Problem("capture", why, "take a teacher of the student's family, or its text: planish capture --text"))


def _summed(out: Path, about: About, new: int, failed: int) -> Captured:
    rows = scored = covered = kept = cut = 0
    for row in rows_of(out, about):
        rows, cut = rows + 1, cut + (row.finish_reason == "length")
        scored, covered, kept = scored + len(row.said.counts), covered + int(row.said.known.sum()), kept + int(row.said.counts.sum())
    sizes = [(out / name).stat().st_size if (out / name).is_file() else 0 for name in (CAPTURE, PACKED)]
    return Captured(out, rows, new, failed, cut, scored, covered / max(1, scored), kept / max(1, covered), *sizes)
