"""Compression: the tuned model as small files, each scored again on the same gold in its own runtime, and gated again (MISSION Z6)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from planish.data import dataset
from planish.data.task import filled
from planish.errors import InputError, Problem
from planish.events import EventType, ReasonCode
from planish.model import bundled
from planish.model.chat import Chat
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages import _compress_refusals, _merge_tasks, _merged
from planish.stages._asking import base_pairs, format_for
from planish.stages._context import Context, Inputs, read_json, read_reports, write_json
from planish.stages._file_scoring import FileScoring, calibration
from planish.stages._general import general_options
from planish.stages._gold import Gold, read_gold
from planish.stages._package import Packed, at_equal_size, packed, sentence
from planish.stages._plain import Plain, plain, refusals
from planish.stages._scoring import primary, readable
from planish.stages._variants import Variant, pruned, whole
from planish.stages.evaluate import Tuned, candidate_name, score_gold
from planish.store import Store

NEEDS = ("prepare", "train", "evaluate")


def options(recipe: Recipe) -> dict[str, Any]:
    """What is made, the rules it must meet, and the base."""
    assert recipe.compress is not None
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    judged = {"scorers": [scorer.model_dump() for scorer in recipe.evaluate.scorers], "decoding": recipe.evaluate.decoding.model_dump()}
    others = [_merged.identities(recipe, entry) for entry in recipe.compress.merges]
    general = general_options(recipe) if others else {}
    return {"compress": recipe.compress.model_dump(), "model": bundled.identity(folder), "others": others, **general, **judged}


def preflight(recipe: Recipe, store: Store) -> None:
    """What cannot be made plain weights of, or could not be scored as a file, is refused before anything runs."""
    problems = list(refusals(recipe))
    known = filled(recipe, recipe.data.task) if recipe.data.task is not None else recipe
    if known.evaluate.scorers and not readable(known.evaluate.scorers):
        problems.append(_unreadable(known))
    problems += _compress_refusals.refusals(known, store)
    if problems:
        raise InputError(*problems)


def preflight_rows(recipe: Recipe, prepared: Path) -> None:
    """The same of scorers that the recipe leaves to the task, once the rows have shown what it is."""
    known = filled(recipe, dataset.read(prepared).task.shape)
    if not readable(known.evaluate.scorers):
        raise InputError(_unreadable(known))


def _unreadable(recipe: Recipe) -> Problem:
    names = ", ".join(use.name for use in recipe.evaluate.scorers)
    why = f"a file is scored by its answers, and {names} reads log-probabilities"
    return Problem("compress", why, "name a scorer that reads answers beside it: evaluate.scorers")


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """The package: the files, the tokenizer, a report per file, `reference.json` of the tuned model in fp32, `compress_report.json` with what each kept."""
    gold = read_gold(context.store, context.run_id, context.stage, inputs["prepare"])
    recipe = filled(context.recipe, gold.task.shape)
    context = replace(context, recipe=recipe)
    assert recipe.compress is not None
    if not readable(recipe.evaluate.scorers):
        raise InputError(_unreadable(recipe))
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    teacher = read_reports(inputs["evaluate"])[candidate_name(recipe)]
    shutil.copytree(inputs["train"] / "tokenizer", folder / "tokenizer")
    weights = plain(recipe, base, inputs["train"], inputs["prepare"], context.work)
    scoring = FileScoring(context, gold, Chat.load(folder / "tokenizer"), weights, inputs["prepare"])
    text = calibration(context, inputs["prepare"], weights, scoring.chat, recipe.compress.export)
    reference = scoring.reference(teacher, format_for(gold.task.shape, recipe.train[-1].precision))
    write_json(folder / "reference.json", reference.model_dump(mode="json"))
    files = [packed(use, scoring, text, reference, folder) for use in recipe.compress.export]
    variants = list[dict[str, Any]]()
    cut: list[Packed] = []
    for variant in _variants(context, inputs, gold, weights, teacher, base):
        made = _files_of(variant, scoring, reference, folder)
        variants.append({"name": variant.name, **variant.story})
        cut += made if variant.cut else []
        files += made
    compared = at_equal_size(cut, files[: len(recipe.compress.export)], scoring)
    said = sentence(files, compared)
    context.progress.say(f"  {said}")
    passed = all(one.passed for one in files)
    write_json(
        folder / "compress_report.json",
        {
            "unproven": context.unproven,
            "passed": passed,
            "sentence": said,
            "merge": recipe.compress.into,
            "apart": weights.apart,
            "reference": reference.metrics[primary(readable(recipe.evaluate.scorers))].model_dump(mode="json"),
            "variants": variants,
            "equal_size": [one.model_dump(mode="json") for one in compared],
            "files": [one.entry for one in files],
        },
    )
    if not passed:
        refused = {"files": [one.entry["file"] for one in files if not one.passed], "sentence": said}
        context.event(EventType.GATE_REFUSED, refused, severity="warning", reason_code=ReasonCode.GATE)


def _variants(context: Context, inputs: Inputs, gold: Gold, weights: Plain, teacher: EvalReport, base: Path) -> Sequence[Variant]:
    """The smaller and the merged models. The tuned one is written as one checkpoint only where they are asked for."""
    recipe = context.recipe
    assert recipe.compress is not None
    if not (recipe.compress.prune or recipe.compress.merges):
        return ()
    tuned = whole(weights, context.work)
    precision = format_for(gold.task.shape, recipe.train[-1].precision)
    pairs = base_pairs(base, gold, recipe.evaluate.scorers, precision)
    unscreened = replace(context, recipe=recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"screen": None})}))

    def score(model: Any, chat: Chat, name: str) -> EvalReport:
        return score_gold(unscreened, Tuned(model, chat, precision), gold, pairs, what=name).model_copy(update={"system": name})

    made = [
        pruned(context, entry, number, tuned, inputs["prepare"], score, teacher, gold.groups) for number, entry in enumerate(recipe.compress.prune, start=1)
    ]
    if not recipe.compress.merges:
        return made
    general = _merge_tasks.general_of(context, gold.task.shape)
    known = inputs["evaluate"] / "general.json"
    kept = EvalReport.model_validate(read_json(known)) if known.is_file() else None
    return made + [
        _merged.merged(context, entry, number, tuned, base, gold, inputs["prepare"], general, teacher, kept)
        for number, entry in enumerate(recipe.compress.merges, start=1)
    ]


def _files_of(variant: Variant, scoring: FileScoring, reference: EvalReport, folder: Path) -> list[Packed]:
    """The files of a smaller or merged model, held against the tuned one."""
    context = replace(scoring.context, work=scoring.context.work / variant.name)
    chat, weights = Chat.load(variant.checkpoint), Plain(variant.checkpoint, None)
    own = replace(scoring, context=context, chat=chat, weights=weights, original=scoring.weights)
    text = calibration(context, scoring.prepared, weights, chat, variant.export)
    return [packed(use, own, text, reference, folder, variant.name, variant.story) for use in variant.export]
