"""A teacher's answers as rows: n samples of every training prompt, checked, deduplicated, and written for sft (MISSION S3)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from planish.builders import teacher_answers
from planish.builders.teacher_answers import Written
from planish.capture import dialogues, local, prepared, remote, student
from planish.capture.asked import How
from planish.data.dataset import Dataset
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.engine import Decoding
from planish.progress import Progress, Silent
from planish.recipe import Recipe
from planish.store.objects import write_atomic

NOTE = "The answers are the teacher's: its licence and its provider's terms say whether a model may be trained on them. It makes errors: read 50 of them."
AT_ONCE = 32


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

    Raises InputError for a file that is there, or samples that would all be alike.
    """
    problems = []
    if out.exists():
        problems.append(Problem(str(out), "exists already", "give a new file"))
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
    held = {row.id for row in data.rows("validation")}
    rows = [row for row in dialogues(data) if row.id not in held][: how.rows]
    checked: Any = verifier
    teacher_answers.require(rows, verifier=checked, options=options)  # before a teacher has written for hours
    chat = Chat.load(student(recipe))
    teacher: Any = _teacher(replace(how, answers="teacher", temperatures=(1.0,), tail_samples=0), chat, recipe)
    progress.say(
        f"  budget (estimated): {len(rows) * samples} answers of at most {how.max_new_tokens} tokens, {len(rows) * samples * how.max_new_tokens:,} in all"
    )
    written: list[Written] = []
    with progress.bar("answers", len(rows) * samples) as advance:
        for sample in range(samples):
            decoding = Decoding(how.max_new_tokens, temperature, seed=sample)
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                written += [Written(row, text, finish) for row, (text, finish) in zip(part, teacher.text(part, decoding), strict=True)]
                advance(len(part))
    found = teacher_answers.build(written, verifier=checked, options=options)
    write_atomic(out, ((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in found.rows))
    return {"file": str(out), "prompts": len(rows), "samples": samples, **found.counts, "note": NOTE}


def _teacher(how: How, chat: Chat, recipe: Recipe) -> Any:
    """One of any tokenizer: a model of this machine is asked through its own template."""
    base = recipe.source.parent if recipe.source else None
    return remote.teacher(how, chat, base) if how.remote else local.writer(how, base)
