"""A cut model made good again: trained on training rows as an entry of the train list is, from the labels or from what the uncut model says (MISSION Z10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planish import shelf
from planish.data import dataset
from planish.data.capture_file import CAPTURE, MANIFEST, About, CapturedRow, append, write_line
from planish.data.capture_packed import pack
from planish.data.dataset import Dataset
from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.model import bundled, precision, teacher, trained
from planish.model.chat import Chat, Refused
from planish.model.load import load
from planish.progress import Progress
from planish.recipe import Recipe
from planish.recipe_compress import PruneEntry
from planish.recipe_keys import Use
from planish.recipe_train import TrainSection
from planish.stages import _files, train
from planish.stages._context import Context
from planish.stages._live import Live
from planish.stages._ready import Job
from planish.stages._within_memory import within_memory
from planish.store import Store
from planish.store.objects import write_atomic, write_folder

UNPRUNED = "unpruned"
"""As `capture` of an objective: what the model before the cut says of the training rows, asked here."""
AT_ONCE = 32


def refusals(recipe: Recipe, entry: PruneEntry, where: str, store: Store) -> list[Problem]:
    """What cannot be trained on a cut model, or not on this machine."""
    section = entry.recover
    if section is None:
        return []
    found = []
    if not shelf.find("adapters", section.adapter.name).load().MERGES:
        found.append(Problem(f"{where}.adapter", f"{section.adapter.name} stays beside its base, and files are made of plain weights", "take full or lora"))
    if section.replay is not None or section.documents is not None:
        found.append(Problem(where, "recovery is trained on the rows of the task alone", "leave replay and documents out"))
    try:
        train.preflight(recipe.model_copy(update={"train": [section]}), store)
    except InputError as refused:
        found += [Problem(problem.where.replace("train[0]", where, 1), problem.why, problem.fix) for problem in refused.problems]
    return found or _absent(recipe, section, where)


def _absent(recipe: Recipe, section: TrainSection, where: str) -> list[Problem]:
    """Files of an objective that are not there. What the uncut model says is asked once it is."""
    try:
        if not from_parent(section):
            _files.content(_files.placed(recipe, section))
    except InputError as refused:
        return [Problem(problem.where.replace("train", where, 1), problem.why, problem.fix) for problem in refused.problems]
    return []


def recover(context: Context, section: TrainSection, cut: Path, uncut: Path, prepared: Path, work: Path, label: str) -> Path:
    """A folder of whole weights, trained from those of `cut`; what is done in `work` is not done again. `uncut` is asked where the objective wants its word,
    and has the vocabulary of `cut`."""
    placed = _files.placed(context.recipe, section)
    if from_parent(section):
        options = dict(section.objective.options)
        temperature = float(options.get("temperature", 2.0))
        asked = work / "capture"
        if not asked.is_dir():
            write_folder(asked, lambda out: capture(uncut, Chat.load(cut), dataset.read(prepared), out, (1.0, temperature), context.progress))
        placed = placed.model_copy(update={"objective": Use(name=section.objective.name, options={**options, "capture": str(asked.absolute())})})
    result = work / "recovered"
    if not result.is_dir():

        def fill(out: Path) -> None:
            tokens = context.store.workspace / "tokens"
            job = Job(placed.model_dump(mode="json"), str(cut), None, str(prepared), str(work / "training"), str(out), str(tokens))
            with Live(context, label) as live:
                within_memory(job, live)

        write_folder(result, fill)
    if (result / "model").is_dir():
        return result / "model"
    whole = work / "whole"
    if not whole.is_dir():

        def merge(out: Path) -> None:
            trained.write_merged(cut, result / "adapter", out)

        write_folder(whole, merge)
    return whole


def capture(uncut: Path, chat: Chat, data: Dataset, out: Path, temperatures: tuple[float, ...], progress: Progress) -> None:
    """What the model in `uncut` says at every trained token of the training and validation rows, as `planish capture` keeps it."""
    form = precision.choose("auto")
    model, wanted = load(uncut, form), teacher.Wanted(temperatures=tuple(dict.fromkeys(temperatures)))
    about = About(
        teacher=bundled.identity(uncut),
        tokenizer=chat.tokenizer_hash,
        template=chat.template_hash,
        gold=data.manifest.gold_sha256,
        answers="rows",
        temperatures=wanted.temperatures,
        k=wanted.k,
        mass=wanted.mass,
    )
    write_atomic(out / MANIFEST, (json.dumps(about.model_dump(mode="json"), indent=1) + "\n").encode())
    rows = list(_rows(data, chat))
    with progress.bar("what the uncut model says", len(rows)) as advance:
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            said = teacher.read(model, [sequence for _, sequence in part], wanted, form)
            append(out / CAPTURE, [write_line(_row(id, sequence, word), about) for (id, sequence), word in zip(part, said, strict=True)])
            advance(len(part))
    pack(out)


def _row(id: str, sequence: Sequence, said: Any) -> CapturedRow:
    first = int(sequence.scored[0])
    return CapturedRow(id, sequence.ids[:first], sequence.ids[first:], tuple(weight > 0 for weight in sequence.weights[first:]), said, "given")


def _rows(data: Dataset, chat: Chat) -> Iterator[tuple[str, Sequence]]:
    for row in (*data.rows("train"), *data.rows("validation")):
        shown = data.task.conversation(row)
        try:
            yield shown.id, chat.trained(shown.messages, shown.tools)
        except Refused:  # encoding refuses it as well, and says so
            continue


def from_parent(section: TrainSection) -> bool:
    """Whether an entry learns from what the uncut model says."""
    return section.objective.options.get("capture") == UNPRUNED
