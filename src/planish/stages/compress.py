"""Compression: the tuned model as small files, each scored again on the same gold in its own runtime, and gated again (MISSION Z6)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from planish import rules, shelf
from planish.data.task import filled
from planish.errors import InputError, Problem
from planish.events import EventType, ReasonCode
from planish.evidence.facts import ReportFacts
from planish.evidence.retained import quality_retained
from planish.model import bundled
from planish.model.calibration_pass import Calibration
from planish.model.chat import Chat
from planish.recipe import Recipe, Use
from planish.scores import EvalReport, Metric
from planish.stages._context import Context, Inputs, read_reports, write_json, write_report
from planish.stages._file_scoring import FileScoring, calibration
from planish.stages._gold import read_gold
from planish.stages._plain import plain, refusals
from planish.stages._scoring import primary, readable
from planish.stages.evaluate import candidate_name
from planish.store import Store

NEEDS = ("prepare", "train", "evaluate")


def options(recipe: Recipe) -> dict[str, Any]:
    """What is made, the rules it must meet, and the base."""
    assert recipe.compress is not None
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    judged = {"scorers": [scorer.model_dump() for scorer in recipe.evaluate.scorers], "decoding": recipe.evaluate.decoding.model_dump()}
    return {"compress": recipe.compress.model_dump(), "model": bundled.identity(folder), **judged}


def preflight(recipe: Recipe, store: Store) -> None:
    """What cannot be made plain weights of, or could not be scored as a file, is refused before anything runs."""
    problems = list(refusals(recipe))
    known = filled(recipe, recipe.data.task) if recipe.data.task is not None else recipe
    if known.evaluate.scorers and not readable(known.evaluate.scorers):
        problems.append(_unreadable(known))
    if problems:
        raise InputError(*problems)


def _unreadable(recipe: Recipe) -> Problem:
    names = ", ".join(use.name for use in recipe.evaluate.scorers)
    why = f"a file is scored by its answers, and {names} reads log-probabilities"
    return Problem("compress", why, "name a scorer that reads answers beside it: evaluate.scorers")


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """The package: the files, the tokenizer, a report per file, `compress_report.json` with what each kept."""
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
    chat = Chat.load(folder / "tokenizer")
    scoring = FileScoring(context, gold, chat, weights, inputs["prepare"])
    text = calibration(context, inputs["prepare"], weights, chat)
    entries = [_export(use, scoring, text, teacher, folder) for use in recipe.compress.export]
    passed = all(entry["passed"] for entry in entries)
    write_json(
        folder / "compress_report.json",
        {"unproven": context.unproven, "passed": passed, "merge": recipe.compress.merge, "apart": weights.apart, "files": entries},
    )
    if not passed:
        context.event(
            EventType.GATE_REFUSED, {"files": [entry["file"] for entry in entries if not entry["passed"]]}, severity="warning", reason_code=ReasonCode.GATE
        )


def _export(use: Use, scoring: FileScoring, text: Calibration, teacher: EvalReport, folder: Path) -> dict[str, Any]:
    """One file, scored in its own runtime against the model it was made from."""
    context, gold, weights = scoring.context, scoring.gold, scoring.weights
    assert context.recipe.compress is not None
    made = shelf.call("exporters", use.name, "export", use.options)(weights.checkpoint, folder, weights.adapter, text)
    context.event(EventType.ARTIFACT_EXPORTED, made.model_dump(mode="json"))
    for note in made.notes:
        context.progress.say(f"  {made.file}: {note}")
    report, ran = scoring.score(folder / made.file, made.file)
    write_report(folder, report.model_copy(update={"system": made.file}))
    metric = primary(readable(context.recipe.evaluate.scorers))
    size = sum(path.stat().st_size for path in weights.checkpoint.glob("*.safetensors"))
    figures: dict[str, Metric] = {
        "bytes": Metric(name="bytes", value=made.bytes, n=1, higher_is_better=False),
        "size_ratio": Metric(name="size_ratio", value=made.bytes / size, n=1, higher_is_better=False),
        **ran.figures(),
        **scoring.closeness(folder / made.file),
    }
    try:
        figures["quality_retained"] = quality_retained(report, teacher, metric, groups=gold.groups)
    except InputError as undefined:  # a rule on it fails as not measured
        context.progress.say(f"  {made.file}: {undefined.problems[0].why}")
    facts = ReportFacts([report], [], [teacher], figures=figures, groups=gold.groups)
    results = [rules.decide(rules.parse(rule), facts) for rule in context.recipe.compress.gate]
    for result in results:
        context.progress.say(f"  {made.file}: {'passed' if result.passed else 'NOT passed'}: {result.rule}: {result.why}")
    return {
        **made.model_dump(mode="json"),
        "source_bytes": size,
        "seconds": report.seconds,
        "runtime": ran.name,
        "metric": metric,
        "value": report.metrics[metric].model_dump(mode="json"),
        "figures": {name: figure.model_dump(mode="json") for name, figure in figures.items()},
        "rules": [result.model_dump(mode="json") for result in results],
        "passed": all(result.passed for result in results),
    }
