"""Compression: the tuned model as small files, each scored again on the same gold in its own runtime, and gated again (MISSION Z6)."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from planish import rules, shelf
from planish.engines import llamacpp
from planish.events import EventType, ReasonCode
from planish.evidence.facts import ReportFacts
from planish.evidence.retained import quality_retained
from planish.model import bundled
from planish.model.asker import Asker
from planish.model.chat import Chat
from planish.recipe import Recipe, Use
from planish.scores import EvalReport, Metric
from planish.stages._context import Context, Inputs, read_reports, write_json, write_report
from planish.stages._gold import Gold, read_gold
from planish.stages._scoring import judge
from planish.stages.evaluate import candidate_name

NEEDS = ("prepare", "train", "evaluate")
CHUNK = 16


def options(recipe: Recipe) -> dict[str, Any]:
    """What is made, the rules it must meet, and the base."""
    assert recipe.compress is not None
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    return {"compress": recipe.compress.model_dump(), "model": bundled.identity(folder), "scorers": [scorer.model_dump() for scorer in recipe.evaluate.scorers]}


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """The package: the files, the tokenizer, a report per file, `compress_report.json` with what each kept."""
    recipe = context.recipe
    assert recipe.compress is not None
    gold = read_gold(context.store, context.run_id, context.stage, inputs["prepare"])
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    teacher = read_reports(inputs["evaluate"])[candidate_name(recipe)]
    shutil.copytree(inputs["train"] / "tokenizer", folder / "tokenizer")
    entries = [_export(use, context, gold, base, inputs["train"], teacher, folder) for use in recipe.compress.export]
    passed = all(entry["passed"] for entry in entries)
    write_json(folder / "compress_report.json", {"unproven": context.unproven, "passed": passed, "files": entries})
    if not passed:
        context.event(
            EventType.GATE_REFUSED, {"files": [entry["file"] for entry in entries if not entry["passed"]]}, severity="warning", reason_code=ReasonCode.GATE
        )


def _export(use: Use, context: Context, gold: Gold, base: Path, trained: Path, teacher: EvalReport, folder: Path) -> dict[str, Any]:
    """One file, scored in its own runtime against the model it was made from."""
    assert context.recipe.compress is not None
    adapter, checkpoint = (trained / "adapter", base) if (trained / "adapter").is_dir() else (None, trained / "model")
    made = shelf.call("exporters", use.name, "export", use.options)(checkpoint, folder, adapter)
    context.event(EventType.ARTIFACT_EXPORTED, made.model_dump(mode="json"))
    report = score_file(folder / made.file, made.file, Chat.load(folder / "tokenizer"), gold, context)
    write_report(folder, report.model_copy(update={"system": made.file}))
    scorer = context.recipe.evaluate.scorers[0].name
    metric = f"{scorer}.{shelf.find('scorers', scorer).load().PRIMARY}"
    retained = quality_retained(report, teacher, metric, groups=gold.groups)
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    figures: dict[str, Metric] = {
        "quality_retained": retained,
        "bytes": Metric(name="bytes", value=made.bytes, n=1, higher_is_better=False),
        "size_ratio": Metric(name="size_ratio", value=made.bytes / size, n=1, higher_is_better=False),
    }
    facts = ReportFacts([report], [], [teacher], figures=figures, groups=gold.groups)
    results = [rules.decide(rules.parse(rule), facts) for rule in context.recipe.compress.gate]
    for result in results:
        context.progress.say(f"  {made.file}: {'passed' if result.passed else 'NOT passed'}: {result.rule}: {result.why}")
    return {
        **made.model_dump(mode="json"),
        "source_bytes": size,
        "seconds": report.seconds,
        "metric": metric,
        "figures": {name: figure.model_dump(mode="json") for name, figure in figures.items()},
        "rules": [result.model_dump(mode="json") for result in results],
        "passed": all(result.passed for result in results),
    }


def score_file(path: Path, system: str, chat: Chat, gold: Gold, context: Context) -> EvalReport:
    """The gold set asked of a GGUF file in llama.cpp: same prompts, same constrained decoding."""
    engine = llamacpp.start(path)
    answers: list[str | None] = []
    began = time.perf_counter()
    try:
        asker = Asker(engine, chat)
        with context.progress.bar(f"gold set, {path.name}", len(gold.samples)) as advance:
            for start in range(0, len(gold.samples), CHUNK):
                part = gold.samples[start : start + CHUNK]
                answers += asker.choose([sample.messages for sample in part], gold.labels)
                advance(len(part))
    finally:
        engine.close()
    return judge(system, answers, gold, context.recipe.evaluate.scorers, time.perf_counter() - began).report
