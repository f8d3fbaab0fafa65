"""Training: rows and a recipe in, an adapter or weights out. It is handed training and validation rows; the gold set is not within its reach.

Every entry of the train list starts from what the one before made: its adapter where both entries have the same one, else the model with the adapter merged into it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from planish import shelf
from planish.data import dataset
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.lazy import require
from planish.model import bundled, new_tokens, same_tokens, trained
from planish.model import precision as number_format
from planish.model.chat import Chat
from planish.model.lr_range import RangeTest, lr_range_test
from planish.model.ranks import Ranks, refusals
from planish.progress import Progress
from planish.recipe import Recipe
from planish.recipe_keys import Use
from planish.recipe_train import TrainSection
from planish.stages import _adapter_refusals, _beside, _documents, _files, _known_rows, _replay, _stage_report
from planish.stages._context import Context, Inputs, read_json, write_json
from planish.stages._live import Live
from planish.stages._ready import Job, make_ready
from planish.stages._within_memory import within_memory
from planish.store import Store
from planish.store.objects import write_folder

NEEDS = ("prepare",)


def options(recipe: Recipe) -> dict[str, Any]:
    """The train list and the base model by its weights. How many ranks share the work, and what memory they have, is no part of what is made."""
    return {
        "train": [entry.model_dump(exclude={"launch", "memory_limit", "documents"}) | _files.content(_files.placed(recipe, entry)) for entry in recipe.train],
        "model": bundled.identity(_base(recipe)),
        **_replay.options(recipe),
        **_documents.options(recipe),
    }


def preflight(recipe: Recipe, store: Store) -> None:
    """What the recipe may say and this machine cannot do is refused before anything runs."""
    problems: list[Problem] = []
    for index, section in enumerate(recipe.train):
        where = f"train[{index}]"
        found = refusals(Ranks(0, section.launch.ranks, section.launch.shard), **section.model_dump(include={"batch_size", "optimizer", "precision"}))
        try:
            number_format.for_training(section.precision, _device())
        except InputError as refused:
            found += refused.problems
        problems += [Problem(problem.where.replace("train", where, 1), problem.why, problem.fix) for problem in found]
        problems += _beside.refusals_of_entry(recipe, index, _base(recipe))
        problems += _unfit(recipe, index) + _adapter_refusals.refusals(recipe, index, _base(recipe))
        problems += _replay.refusals(section, where) + _documents.refusals(section, where) + _documents.strange(recipe, section, where)
    problems += new_tokens.refusals(_base(recipe), [section.adapter.name for section in recipe.train])
    if problems:
        raise InputError(*problems)
    if any(section.optimizer == "adamw_8bit" or section.four_bit or {"qlora", "adamw_8bit"} & set(section.on_out_of_memory) for section in recipe.train):
        require("bitsandbytes", extra="4bit")


def preflight_rows(recipe: Recipe, prepared: Path) -> None:
    """What the prepared rows show that this recipe cannot train on is refused before a baseline asks anything."""
    if problems := _known_rows.refusals(recipe, prepared):
        raise InputError(*problems)


def _unfit(recipe: Recipe, index: int) -> list[Problem]:
    """What does not go together in an entry, or from it to the next."""
    section, where = recipe.train[index], f"train[{index}]"
    adapter, objective = (shelf.find(name, use.name).load() for name, use in (("adapters", section.adapter), ("objectives", section.objective)))
    found = []
    heads = getattr(adapter, "HEAD", False), getattr(objective, "HEAD", None)
    if heads[0] != (heads[1] is not None):
        needs = "trains no head" if heads[0] else "needs a head: adapter: head"
        why = f"{section.objective.name} {needs}, and the adapter is {section.adapter.name}"
        fix = "a head is trained by an objective that reads it (classify, regress, reward), anything else by another adapter"
        found.append(Problem(f"{where}.adapter", why, fix))
    elif heads[0] and (kind := adapter.kind_of(section.adapter.options)) != heads[1]:
        why = f"{section.objective.name} trains a {heads[1]} head, and this is one of {kind}"
        found.append(Problem(f"{where}.adapter.head.kind", why, f"set it to {heads[1]}"))
    if section.four_bit and section.adapter.name == "full":
        found.append(Problem(f"{where}.four_bit", "weights that are trained themselves cannot be kept in 4 bits", "take an adapter, or leave four_bit out"))
    if index + 1 < len(recipe.train) and recipe.train[index + 1].adapter != section.adapter and not adapter.MERGES:
        why = f"{section.adapter.name} cannot be merged into the model that the next entry starts from"
        found.append(Problem(f"{where}.adapter", why, "give both entries the same adapter, or one that merges: " + ", ".join(_merging())))
    if index and recipe.train[index - 1].adapter != section.adapter and not adapter.MERGES and index + 1 == len(recipe.train):
        why = f"{section.adapter.name} stays beside its base, and that would be a merged model which only this run has"
        found.append(Problem(f"{where}.adapter", why, "run the entries before it alone, export what they made, and name it as the model of a run of its own"))
    return found


def _for_task(section: TrainSection, task: Task) -> TrainSection:
    """The entry with what its objective and its adapter take from the task: the labels of a head of classes."""
    taken = {}
    for key, shelf_name, use in (("objective", "objectives", section.objective), ("adapter", "adapters", section.adapter)):
        module = shelf.find(shelf_name, use.name).load()
        if hasattr(module, "for_task"):
            taken[key] = use.model_copy(update={"options": module.for_task(use.options, task)})
    return section.model_copy(update=taken)


def _merging() -> list[str]:
    return [name for name, one in shelf.shelf("adapters").items() if one.load().MERGES]


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`adapter/` in PEFT's layout or `model/` with all weights, `metrics.jsonl` and `report.json` of the last entry, and of several entries each one's under `entries/N`.

    Goes on from the newest checkpoint of this very run; an entry that is done is not done again.
    """
    recipe = context.recipe
    _refuse_leaks(inputs["prepare"])
    original = base = _base(recipe)
    tokens = context.store.workspace / "tokens"
    start: Path | None = None
    last = len(recipe.train) - 1
    task = dataset.read(inputs["prepare"]).task
    entries = [_for_task(_files.placed(recipe, section), task) for section in recipe.train]
    for index, section in enumerate(entries):
        work = context.work if last == 0 else context.work / f"entry-{index}"
        made = work / "result"
        if index < last and made.is_dir():
            context.progress.say(f"  entry {index + 1} of {last + 1}: done before")
        else:
            label = "training" if last == 0 else f"training {index + 1} of {last + 1}"

            def fill(out: Path, section: TrainSection = section, base: Path = base, start: Path | None = start, work: Path = work, label: str = label) -> None:
                job = Job(section.model_dump(mode="json"), str(base), str(start) if start else None, str(inputs["prepare"]), str(work), str(out), str(tokens))
                documents = _documents.gather(context, section, inputs["prepare"])
                job = dataclasses.replace(job, documents=documents, replay=_replay.gather(context, section, inputs["prepare"], original, documents))
                job = dataclasses.replace(job, references=str(context.store.workspace / "references"))
                _entry(context, job, label)
                if documents is not None:
                    _documents.keep_held(Path(documents), out)

            if index == last:
                fill(folder)
            else:
                write_folder(made, fill)
        if index < last:
            kept = folder / "entries" / str(index)
            _keep_figures(made, kept)
            if _stage_report.pretrains(recipe):
                _keep_result(made, kept, base, original)
            base, start = _origin(entries[index + 1], base, made)
            if base != original:
                same_tokens.require(original, base, f"train[{index + 1}]")
    if last > 0:
        _keep_figures(folder, folder / "entries" / str(last))
    if base != original:
        _whole(base, folder, original)
    if (control := _stage_report.control_of(context)) is not None:
        context.progress.say("  the control: the same entries without documents")
        (folder / _stage_report.CONTROL).mkdir()
        run(control, inputs, folder / _stage_report.CONTROL)


def _refuse_leaks(prepared: Path) -> None:
    """Too much of gold stood in the training rows: what no check can see has leaked as well (MISSION D9). Raises InputError."""
    figures = prepared / "findings" / "leakage.json"
    if figures.is_file():
        shelf.find("checks", "leakage").load().require_clean(read_json(figures))


def _entry(context: Context, job: Job, label: str) -> None:
    with Live(context, label) as live:
        within_memory(job, live)


def find_learning_rate(
    recipe: Recipe, prepared: Path, progress: Progress, *, entry: int = 0, record: Callable[[float, float], None] = lambda *_: None, **sweep: Any
) -> RangeTest:
    """The learning-rate range test of an entry over the rows in `prepared`, on a model of its own: nothing of the run is read or written (MISSION T4).

    `sweep` are low, high and count of planish.model.lr_range. An entry after the first is tested on the base model, as what it starts from is made by the run.
    """
    section = _for_task(_files.placed(recipe, recipe.train[entry]), dataset.read(prepared).task)
    with TemporaryDirectory() as tokens:
        ready = make_ready(Job(section.model_dump(mode="json"), str(_base(recipe)), None, str(prepared), "", "", tokens))
    with progress.bar("learning-rate test", int(sweep.get("count", 100))) as advance:

        def on_step(rate: float, loss: float) -> None:
            advance(1, f"loss {loss:.3f} lr {rate:.1e}")
            record(rate, loss)

        return lr_range_test(ready.model, ready.examples, ready.loss, ready.plan, device=ready.device, on_step=on_step, **sweep)


def _origin(following: TrainSection, base: Path, made: Path) -> tuple[Path, Path | None]:
    """What the following entry starts from: a base model, and an adapter to go on with where it is the same one that was trained, which need not be the one asked for."""
    done = Use.model_validate(read_json(made / "report.json")["adapter"])
    mine, next_one = (shelf.find("adapters", one.name).options(one.options) | {"": one.name} for one in (done, following.adapter))
    if (made / "model").is_dir():
        return made / "model", None
    if mine == next_one:
        return base, made / "adapter"
    whole = made.parent / "merged"
    if not whole.is_dir():
        write_folder(whole, lambda partial: _write_merged(base, made, partial))
    return whole, None


def _whole(base: Path, folder: Path, original: Path) -> None:
    """Whole weights, named after the model that the recipe names, of a result whose own base only this run has."""
    if (folder / "adapter").is_dir():
        _merge_in(base, folder)
    trained.name_base(folder / "model", original)


def _merge_in(base: Path, folder: Path) -> None:
    """An adapter of a merged model is of no use without it: the whole weights are left instead."""
    write_folder(folder / "model", lambda partial: _write_merged(base, folder, partial))
    for path in (folder / "adapter").iterdir():
        path.unlink()
    (folder / "adapter").rmdir()


def _write_merged(base: Path, made: Path, out: Path) -> None:
    model: Any = trained.merged(base, made)
    model.save_pretrained(out, safe_serialization=True)
    Chat.load(base).save(out)


def _keep_figures(made: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.jsonl").write_bytes((made / "metrics.jsonl").read_bytes())
    write_json(place / "report.json", read_json(made / "report.json"))
    _documents.carry_held(made, place)


def _keep_result(made: Path, place: Path, base: Path, original: Path) -> None:
    """What an entry left, beside its figures and as something that opens on the original base: each stage is scored on gold."""
    for name in ("adapter", "model", "tokenizer"):
        if (made / name).is_dir():
            shutil.copytree(made / name, place / name)
    if base != original:
        _whole(base, place, original)


def _base(recipe: Recipe) -> Path:
    return bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
