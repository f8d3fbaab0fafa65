"""A teacher's answers as rows: n samples of every training prompt, checked, deduplicated, and written for sft (MISSION S3).

While the teacher writes, its answers stand in the folder FILE.unfinished, appended to by whole lines; a killed capture goes on there. The file appears once all are there, and
the folder goes.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from planish.builders import teacher_answers
from planish.builders.teacher_answers import Written
from planish.capture import dialogues, local, prepared, remote, student
from planish.capture.asked import How
from planish.capture.resumed import begun, held, parts
from planish.data.capture_file import MANIFEST, append
from planish.data.dataset import Dataset
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.engine import Decoding
from planish.progress import Progress, Silent
from planish.recipe import Recipe
from planish.rows import ChatRow, Noun, content_hash
from planish.store.objects import write_atomic

NOTE = "The answers are the teacher's: its licence and its provider's terms say whether a model may be trained on them. It makes errors: read 50 of them."
ANSWERS = "answers.jsonl"
UNFINISHED = ".unfinished"


class About(Noun):
    """What the answers in an unfinished folder are of. How many samples or rows are asked for is not: more of the same may be asked, and a verifier reads them at the end."""

    teacher: str
    template: str
    gold: str
    prompts: str
    temperature: float
    max_new_tokens: int


def write(
    recipe: Recipe,
    how: How,
    out: Path,
    *,
    samples: int = 4,
    temperature: float = 0.8,
    verifier: str = "none",
    options: dict[str, Any] | None = None,
    workspace: Path = Path(".planish"),
    progress: Progress | None = None,
    data: Dataset | None = None,
) -> dict[str, Any]:
    """Write `out`, a JSONL file of `messages`, and give the counts with the note on licences. Only training prompts are asked: validation keeps its own answers.

    What an ended process had been told is gone on with; an endpoint's call that failed is made again. Raises InputError for a file that is there, for answers that were begun
    otherwise, and for samples that would all be alike.
    """
    problems, work = [], out.with_name(out.name + UNFINISHED)
    if out.exists():
        problems.append(Problem(str(out), "exists already", "give a new file"))
    if work.exists() and not work.is_dir():
        problems.append(Problem(str(work), "is a file, and answers are gathered in a folder of that name", "move it away, or give another --text"))
    if samples < 1 or (samples > 1 and temperature == 0):
        problems.append(
            Problem("--samples", f"{samples} answers at temperature {temperature:g}", "give 1 or more, and a temperature above 0 for more than one")
        )
    if how.max_new_tokens < 1 or not 0 <= temperature < math.inf:
        why = f"{how.max_new_tokens} tokens at temperature {temperature:g}"
        problems.append(Problem("--max-new-tokens, --temperature", why, "give 1 token or more, and a temperature of 0 (greedy) or above"))
    if problems:
        raise InputError(*problems)
    progress = progress or Silent()
    data = data or prepared(recipe, workspace, progress)
    checks = {row.id for row in data.rows("validation")}
    rows = [row for row in dialogues(data) if row.id not in checks][: how.rows]
    checked: Any = verifier
    teacher_answers.require(rows, verifier=checked, options=options)  # before a teacher has written for hours
    chat = Chat.load(student(recipe))
    teacher: Any = _teacher(replace(how, answers="teacher", temperatures=(1.0,), tail_samples=0), chat, recipe)
    progress.say(
        f"  budget (estimated): {len(rows) * samples} answers of at most {how.max_new_tokens} tokens, {len(rows) * samples * how.max_new_tokens:,} in all"
    )
    about = About(
        teacher=teacher.identity,
        template=chat.template_hash if how.remote else teacher.chat.template_hash,
        gold=data.manifest.gold_sha256,
        prompts=content_hash([[row.id, row.origin.sha256] for row in dialogues(data)]),
        temperature=temperature,
        max_new_tokens=how.max_new_tokens,
    )
    work.mkdir(parents=True, exist_ok=True)
    with held(work):
        done = _begun(work, about, progress)
        written = _asked(teacher, rows, samples, Decoding(how.max_new_tokens, temperature), done, work, progress)
        found = teacher_answers.build(written, verifier=checked, options=options)
        write_atomic(out, ((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in found.rows))
        for name in (ANSWERS, MANIFEST):
            (work / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody's own file in it stays
        work.rmdir()
    return {"file": str(out), "prompts": len(rows), "samples": samples, **found.counts, "note": NOTE}


Told = dict[tuple[str, int], tuple[str, str]]
"""By row and sample: the answer, and why it ended."""


def _asked(teacher: Any, rows: list[ChatRow], samples: int, decoding: Decoding, done: Told, work: Path, progress: Progress) -> list[Written]:
    """Every answer, sample by sample; those that are not done are asked for and appended, but for a call that failed."""
    written: list[Written] = []
    with progress.bar("answers", len(rows) * samples) as advance:
        for sample in range(samples):
            for part, asked in parts(rows, {row for row, number in done if number == sample}, teacher):
                said = zip(asked, teacher.text(asked, replace(decoding, seed=sample)) if asked else (), strict=True)
                new = {(row.id, sample): one for row, one in said if (row.id, sample) not in done}
                append(work / ANSWERS, [_line(row, number, *one) for (row, number), one in new.items() if one[1] != "failed"])
                done |= new
                written += [Written(row, *done[row.id, sample]) for row in part]
                advance(len(part))
    return written


def _line(row: str, sample: int, text: str, finish: str) -> str:
    return json.dumps({"id": row, "sample": sample, "text": text, "finish": finish}, ensure_ascii=False)


def _begun(work: Path, about: About, progress: Progress) -> Told:
    """What the folder has been told. Raises InputError for answers that were asked for otherwise, and for a line that is none."""
    path = work / ANSWERS
    there = _about_of(work) if path.is_file() and path.stat().st_size else None
    if not begun(work, ANSWERS, about, there, progress):
        return {}
    found: Told = {}
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                one = json.loads(line.decode("utf-8"))
                found[str(one["id"]), int(one["sample"])] = (str(one["text"]), str(one["finish"]))
            except (ValueError, KeyError, TypeError) as why:
                raise InputError(Problem(f"{path}:{number}", "is no answer", "take the line out; the row is asked again")) from why
    progress.say(f"  {len(found)} answers are there already")
    return found


def _about_of(work: Path) -> About:
    try:
        return About.model_validate_json((work / MANIFEST).read_bytes())
    except (OSError, ValueError) as why:
        raise InputError(Problem(str(work / MANIFEST), "does not say what the answers beside it are of", f"take {work} away, or put it back")) from why


def _teacher(how: How, chat: Chat, recipe: Recipe) -> Any:
    """One of any tokenizer: a model of this machine is asked through its own template."""
    base = recipe.source.parent if recipe.source else None
    return remote.teacher(how, chat, base) if how.remote else local.writer(how, base)
