"""Continued pretraining before other entries: the control without it, every stage on the same gold, the domain's loss, and the word on whether it helped (MISSION C3).

`train` makes the control and keeps each stage's result, `evaluate` scores them (stages/), `gate` writes stage_report.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from planish.data.general import GeneralRow
from planish.data.table import ROW
from planish.evidence import cpt_verdict, forgetting
from planish.evidence.paired import compare
from planish.model.general import evaluate
from planish.recipe import Recipe
from planish.rows import TextRow
from planish.scores import EvalReport
from planish.stages._context import Context, read_json, write_json
from planish.stages._documents import DOMAIN

CONTROL, BASE = "without_cpt", "base"
STAGES = "stages"
DOMAIN_TOKENS = 512
"""Of a held-out document that are predicted."""
DOMAIN_ROWS = 200
LOSS = "general.domain.loss"

Opened = tuple[Any, Any, Any]
"""A model, its Chat and its precision."""


def pretrains(recipe: Recipe) -> bool:
    """Whether any entry is trained on documents."""
    return any(section.documents is not None for section in recipe.train)


def control_of(context: Context) -> Context | None:
    """The same run without the entries over documents, in a work folder of its own; None where nothing would be left, or nothing is left out."""
    kept = [section for section in context.recipe.train if section.documents is None]
    if not kept or not pretrains(context.recipe):
        return None
    return replace(context, recipe=context.recipe.model_copy(update={"train": kept}), work=context.work / CONTROL)


def results(recipe: Recipe, trained: Path) -> dict[str, Path | None]:
    """The systems beside the candidate, in the order of the stages: what each earlier entry left, and the control, or the base where there is none."""
    made: dict[str, Path | None] = {
        f"{index + 1}-{section.objective.name}": trained / "entries" / str(index) for index, section in enumerate(recipe.train[:-1])
    }
    control = trained / CONTROL
    return made | ({CONTROL: control} if control.is_dir() else {BASE: None})


def write_stages(
    recipe: Recipe, trained: Path, candidate: EvalReport, open_result: Callable[[Path | None], Opened], score: Callable[[Opened, str], EvalReport], folder: Path
) -> None:
    """`stages/<system>.json` on gold and `stages/domain.json` on documents that were never trained. `open_result` opens the base for None; nothing without documents."""
    if not pretrains(recipe):
        return
    domain: list[EvalReport] = []
    held = domain_rows(trained)
    last = max(index for index, section in enumerate(recipe.train) if section.documents is not None)
    after = f"{last + 1}-{recipe.train[last].objective.name}"
    asked: dict[str, Path | None] = {BASE: None, **results(recipe, trained), candidate.system: trained}
    scored = results(recipe, trained)
    for name, place in asked.items():
        if name not in scored and not (held and name in (BASE, candidate.system)):
            continue
        opened = open_result(place)
        if name in scored:
            report = score(opened, name).model_copy(update={"system": name})
            write_json(folder / STAGES / f"{name}.json", report.model_dump(mode="json"))
        if held and name in (BASE, after, candidate.system):
            model, chat, precision = opened
            shown = [row.model_copy(update={"text": _beginning(model, chat, row.text)}) for row in held if len(chat.encode(row.text)) > 1]
            if shown:  # of a document of one token nothing is predicted
                domain.append(evaluate(model, chat, shown, name, precision))
        del opened
    write_json(folder / STAGES / "domain.json", [report.model_dump(mode="json") for report in domain])


def domain_rows(trained: Path) -> list[GeneralRow]:
    """The documents that no entry trained, as text to predict."""
    rows: dict[str, GeneralRow] = {}
    for path in sorted({*trained.glob(DOMAIN), *trained.glob(f"entries/*/{DOMAIN}")}):
        with path.open("rb") as stream:
            for line in stream:
                row = ROW.validate_json(line)
                assert isinstance(row, TextRow)
                rows[row.id] = GeneralRow(id=row.id, source="domain", text=row.text)
    return list(rows.values())[:DOMAIN_ROWS]


def controls(evaluated: Path, candidate: EvalReport) -> list[EvalReport]:
    """The control as one more system that the candidate must beat; none where there is none, or where the candidate was ruled out before all of gold was asked."""
    path = evaluated / STAGES / f"{CONTROL}.json"
    found = [EvalReport.model_validate(read_json(path))] if path.is_file() else []
    return [report for report in found if _same_rows(report, candidate)]


def write_stage_report(
    context: Context, evaluated: Path, candidate: EvalReport, metric: str, general: list[EvalReport], groups: Mapping[str, str] | None, folder: Path
) -> None:
    """`stage_report.json`; nothing where no entry read documents. `general` are the candidate's report and the base's."""
    if not (evaluated / STAGES).is_dir():
        return
    reports = {path.stem: EvalReport.model_validate(read_json(path)) for path in sorted((evaluated / STAGES).glob("*.json")) if path.name != "domain.json"}
    control = reports[CONTROL] if CONTROL in reports else reports[BASE]
    if not _same_rows(control, candidate):
        context.progress.say("  continued pretraining is not judged: the candidate was ruled out before all of gold was asked")
        return
    domain = {report.system: report for report in map(EvalReport.model_validate, read_json(evaluated / STAGES / "domain.json"))}
    after = next((name for name in domain if name not in (BASE, candidate.system)), candidate.system)
    known = domain.keys() >= {BASE, after}
    found = cpt_verdict.judge(
        {name: report.metrics[metric] for name, report in {**reports, candidate.system: candidate}.items()},
        compare(candidate, control, metric, groups=groups),
        domain={name: domain[name].metrics["general.perplexity"] for name in dict.fromkeys((BASE, after, candidate.system))} if known else None,
        domain_change=compare(domain[after], domain[BASE], LOSS) if known else None,
        general=forgetting.pooled(general[1], general[0]) if len(general) == 2 else None,
    )
    write_json(folder / "stage_report.json", found.model_dump(mode="json"))
    for line in cpt_verdict.lines(found):
        context.progress.say(f"  {line}")


def _same_rows(one: EvalReport, other: EvalReport) -> bool:
    return {score.id for score in one.scores} == {score.id for score in other.scores}


def _beginning(model: Any, chat: Any, text: str) -> str:
    """As much of a text as is predicted, a little under the model's context: cut text may split otherwise."""
    limit = min(DOMAIN_TOKENS, getattr(model.config, "max_position_embeddings", DOMAIN_TOKENS) - 8)
    ids = chat.encode(text)
    return text if len(ids) <= limit else str(chat.tokenizer.decode(ids[:limit]))
