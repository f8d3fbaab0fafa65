"""Verbs over models: the memory that a recipe needs, merging, what a curve says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planish.cli.options import HERE, Json, RecipePath, Workspace, app

if TYPE_CHECKING:
    pass


@app.command()
def plan(
    recipe: RecipePath,
    device: Annotated[str | None, typer.Option(help='A device to plan for, as "RTX 4090"; this machine without it.')] = None,
    memory: Annotated[str | None, typer.Option(help="Memory to plan for, as 24GB.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Run two steps on this machine and compare; later plans are corrected by it.")] = False,
    as_json: Json = False,
) -> None:
    """Say what training takes in memory, term by term, whether it fits, and the cheapest change that makes it fit.

    Example: planish plan recipe.yaml --device "RTX 4090"
    """
    from dataclasses import asdict

    from planish import plan as planning
    from planish.recipe import Recipe

    if measure:
        probed = planning.measure(Recipe.load(recipe), planning.machine(device, memory))
        typer.echo(json.dumps([asdict(one) for one in probed], indent=1) if as_json else planning.probed_text(probed))
        return
    planned = planning.plan(Recipe.load(recipe), planning.machine(device, memory))
    typer.echo(json.dumps(planning.as_json(planned), indent=1) if as_json else planning.text(planned))


@app.command("decode-sweep")
def decode_sweep(
    recipe: RecipePath,
    goal: Annotated[str, typer.Option(help='The bar to clear: a metric of the task against a number, as "rouge.rougeL >= 0.4".', show_default=False)],
    rows: Annotated[int | None, typer.Option(min=1, help="Take at most this many validation rows.")] = None,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Find the decoding setting that clears a bar without training, on the validation rows; gold is not read. Exit code 3 where none does.

    Example: planish decode-sweep recipe.yaml --goal "f1.f1 >= 0.6"
    """
    from planish import decode_sweep as sweeping
    from planish.progress import Terminal
    from planish.recipe import Recipe

    found = sweeping.sweep(Recipe.load(recipe), goal, workspace, Terminal(), rows=rows)
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=1) if as_json else sweeping.text(found))
    if not found.cleared:
        raise typer.Exit(3)


@app.command()
def probe(
    recipe: RecipePath,
    rows: Annotated[int, typer.Option(min=10, help="Fit on at most this many training rows.")] = 400,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Show behind which layer of the untuned model the labels can be read: where a head could stand, and whether the model knows the task at all.

    Example: planish probe recipe.yaml
    """
    from planish import probe as probing
    from planish.progress import Terminal
    from planish.recipe import Recipe

    found = probing.probe(Recipe.load(recipe), workspace, Terminal(), rows=rows)
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=1) if as_json else probing.text(found))


@app.command()
def merge(
    config: Annotated[Path, typer.Argument(help="What to merge: a YAML file of ours, or mergekit's.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")] = Path("merged"),
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="PARENT=RECIPE: the merge, every parent and the base are scored on the gold set of the recipe that this parent was tuned by; once for each."
        ),
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Of a soup: keep a model only where the tasks' validation score rises. Gold judges the result and chooses nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the parents and say what it would take; nothing is written.")] = False,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Merge models or adapters of one base, tensor by tensor: soup, slerp, task_arithmetic, ties, dare, passthrough. With tasks, exit code 3 where a skill did not survive.

    Example: planish merge merge.yaml --out merged --task billing=billing/recipe.yaml --task refunds=refunds/recipe.yaml
    """
    from planish import merge as merging
    from planish.progress import Terminal

    spec, untranslated = merging.load(config)
    spec = merging.with_tasks(spec, task or [], Path.cwd())

    def made() -> merging.MergeForecast | merging.MergeReport:
        if dry_run:
            return merging.forecast(spec, config.parent, untranslated)
        if greedy or any(source.task is not None for source in spec.sources):
            from planish.merge_tasks import scored

            return scored(spec, out, relative_to=config.parent, untranslated=untranslated, workspace=workspace, progress=Terminal(), greedy=greedy)
        return merging.merge_models(spec, out, relative_to=config.parent, untranslated=untranslated, progress=Terminal())

    done = made()
    typer.echo(json.dumps(done.model_dump(mode="json"), indent=1) if as_json else merging.text(done))
    if isinstance(done, merging.MergeReport) and done.verdict is not None and done.verdict["decision"] != "merge":
        raise typer.Exit(3)


@app.command()
def diagnose(
    run: Annotated[str, typer.Argument(help="A run's id, the beginning of one, last, or a metrics.jsonl.")] = "last",
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Say in words what a training curve shows, with its evidence and the next action; a run that still trains too.

    Example: planish diagnose last
    """
    from planish import diagnose as doctor

    found = doctor.of(run, workspace)
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json.dumps(doctor.as_json(found), indent=1) if as_json else doctor.text(found, plain=plain))
