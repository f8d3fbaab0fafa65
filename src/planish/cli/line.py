"""The line as verbs: `planish run`, and one verb per stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planish.cli.options import HERE, Json, RecipePath, Unproven, Workspace, app

if TYPE_CHECKING:
    from planish.pipeline import RunOutcome


@app.command()
def run(recipe: RecipePath, workspace: Workspace = HERE, unproven: Unproven = False, as_json: Json = False) -> None:
    """Run every stage of a recipe, skipping what has not changed.

    Example: planish run recipe.yaml
    """
    _run(recipe, workspace, None, unproven, as_json)


def _stage_verb(stage: str, line: str) -> None:
    def verb(recipe: RecipePath, workspace: Workspace = HERE, unproven: Unproven = False, as_json: Json = False) -> None:
        _run(recipe, workspace, stage, unproven, as_json)

    verb.__doc__ = _stage_help(stage, line)
    app.command(stage)(verb)


def _stage_help(stage: str, line: str) -> str:
    return f"{line}\n\nRuns the stages before it too, unless they are unchanged.\n\nExample: planish {stage} recipe.yaml"


def _train_verb(stage: str, line: str) -> None:
    def verb(
        recipe: RecipePath,
        workspace: Workspace = HERE,
        unproven: Unproven = False,
        find_lr: Annotated[bool, typer.Option("--find-lr", help="Measure a learning rate on a throw-away copy instead; nothing is trained.")] = False,
        as_json: Json = False,
    ) -> None:
        if find_lr:
            _find_lr(recipe, workspace, as_json)
        else:
            _run(recipe, workspace, stage, unproven, as_json)

    verb.__doc__ = _stage_help(stage, line)
    app.command(stage)(verb)


def _compress_verb(stage: str, line: str) -> None:
    def verb(
        recipe: RecipePath,
        workspace: Workspace = HERE,
        unproven: Unproven = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say size, time and memory of every file and model instead; nothing is tuned or kept.")
        ] = False,
        as_json: Json = False,
    ) -> None:
        if dry_run:
            _forecast(recipe, workspace, as_json)
        else:
            _run(recipe, workspace, stage, unproven, as_json)

    verb.__doc__ = _stage_help(stage, line)
    app.command(stage)(verb)


def _forecast(path: Path, workspace: Path, as_json: bool) -> None:
    """What the recipe's compression would come to."""
    from planish.recipe import Recipe

    loaded = Recipe.load(path)
    from planish import compress
    from planish.progress import Terminal

    found = compress.forecast(loaded, workspace, Terminal())
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=1) if as_json else compress.text(found))


VERBS = {"train": _train_verb, "compress": _compress_verb}


def _find_lr(path: Path, workspace: Path, as_json: bool) -> None:
    """The learning-rate range test of the first entry over the prepared rows: a table, a suggestion, and the curve in the workspace."""
    from planish.errors import InputError, Problem
    from planish.recipe import Recipe

    recipe = Recipe.load(path)
    if not recipe.train:
        raise InputError(Problem("train", "the recipe trains nothing", "add a train entry"))
    from planish import pipeline
    from planish.progress import Terminal
    from planish.stages import _lr_page as lr_page
    from planish.stages.train import find_learning_rate

    progress = Terminal()
    prepared = pipeline.run(recipe, workspace=workspace, until="prepare", progress=progress).stages["prepare"].folder
    assert prepared is not None  # nothing gates prepare
    found = find_learning_rate(recipe, prepared, progress)
    curve = lr_page.write(found, workspace, recipe)
    typer.echo(json.dumps({"lr_test": lr_page.as_json(found), "curve": str(curve)}, indent=1) if as_json else f"{lr_page.text(found)}\ncurve: {curve}")


for _stage, _line in {
    "prepare": "Read, check, and split the rows; seal the gold set.",
    "baseline": "Measure how far cheaper means already get.",
    "train": "Tune the model.",
    "evaluate": "Score the tuned model on the gold set and on general text.",
    "gate": "Decide: ship, keep the baseline, or get more gold.",
    "compress": "Make small files of the tuned model and score each again.",
    "serve": "Start the endpoint.",
    "observe": "Ask the gold set again of the live endpoint.",
    "feedback": "Turn corrected answers into the next dataset version.",
}.items():
    VERBS.get(_stage, _stage_verb)(_stage, _line)


def _run(recipe: Path, workspace: Path, named: str | None, unproven: bool, as_json: bool) -> None:
    """All stages, or those up to the one that was named, which the recipe must ask for."""
    from planish.recipe import Recipe

    loaded = Recipe.load(recipe)
    from planish import pipeline, report
    from planish.events import STAGES
    from planish.progress import Terminal

    if named is not None:
        pipeline.refuse_unasked(loaded, named)
    outcome = pipeline.run(loaded, workspace=workspace, until=named or STAGES[-1], unproven=unproven, progress=Terminal())
    page = report.write(workspace, outcome.run_id)
    if as_json:
        typer.echo(json.dumps(_outcome_json(outcome) | {"report": str(page)}, indent=1))
    else:
        report.show(workspace, outcome.run_id)
        typer.echo(f"\nreport: {page}")
    sys.exit(outcome.exit_code)


def _outcome_json(outcome: RunOutcome) -> dict[str, Any]:
    stages = {
        name: {"status": one.status, "artifact": one.folder.name if one.folder else None, "reason": one.reason, "seconds": round(one.seconds, 3)}
        for name, one in outcome.stages.items()
    }
    return {"run": outcome.run_id, "exit_code": outcome.exit_code, "stages": stages}
