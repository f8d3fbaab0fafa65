"""The command line: the same functions as from Python, each printing for people, or JSON with --json."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planish.errors import PlanishError

if TYPE_CHECKING:
    from planish.pipeline import RunOutcome

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Give planish rows and a bar to clear; it finds the cheapest technique that clears the bar, and ships only what does.\n\nExample: planish run recipe.yaml",
)
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Data sets that come with planish.\n\nExample: planish data reviews --out reviews.jsonl"
)
app.add_typer(data_app, name="data")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Workspace = Annotated[Path, typer.Option(help="Where runs, artifacts and events are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Unproven = Annotated[
    bool, typer.Option("--unproven", help="Run the stages behind a gate that said no; what they make is marked UNPROVEN. The exit code stays 3.")
]
RunId = Annotated[str, typer.Argument(help="A run's id, the beginning of one, or last.")]

HERE = Path(".planish")
INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 it failed while running, 2 the input or recipe is wrong and nothing was run, 3 a gate said no."""
    # threads that spin long at a barrier starve each other when another process wants a core; must be set before torch loads
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        status = app(standalone_mode=False)
    except PlanishError as refused:
        _fail(refused)
    except Exception as failed:
        if type(failed).__module__.startswith(("click", "typer")) and hasattr(failed, "show"):
            failed.show()
            sys.exit(2)
        if isinstance(failed, OSError):
            from planish.store.objects import disk_error

            if isinstance(full := disk_error(failed, Path(failed.filename or "disk")), PlanishError):
                _fail(full)
        raise
    if status == INTERRUPTED:
        typer.echo("interrupted; give the same command again to go on", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(refused: PlanishError) -> None:
    for problem in refused.problems:
        typer.echo(str(problem), err=True)
    sys.exit(refused.exit_code)


@app.command()
def run(recipe: RecipePath, workspace: Workspace = HERE, unproven: Unproven = False, as_json: Json = False) -> None:
    """Run every stage of a recipe, skipping what has not changed.

    Example: planish run recipe.yaml
    """
    _run(recipe, workspace, "feedback", unproven, as_json)


def _stage_verb(stage: str, line: str) -> None:
    def verb(recipe: RecipePath, workspace: Workspace = HERE, unproven: Unproven = False, as_json: Json = False) -> None:
        _run(recipe, workspace, stage, unproven, as_json)

    verb.__doc__ = f"{line}\n\nRuns the stages before it too, unless they are unchanged.\n\nExample: planish {stage} recipe.yaml"
    app.command(stage)(verb)


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
    _stage_verb(_stage, _line)


def _run(recipe: Path, workspace: Path, until: str, unproven: bool, as_json: bool) -> None:
    from planish.recipe import Recipe

    loaded = Recipe.load(recipe)
    from planish import pipeline, report
    from planish.progress import Terminal

    outcome = pipeline.run(loaded, workspace=workspace, until=until, unproven=unproven, progress=Terminal())
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


@app.command()
def check(recipe: RecipePath, as_json: Json = False) -> None:
    """Check a recipe: every error at once, with its line. Needs no torch and runs nothing.

    Example: planish check recipe.yaml
    """
    from planish.recipe import Recipe

    loaded = Recipe.load(recipe)
    typer.echo(json.dumps({"ok": True, "fingerprint": loaded.fingerprint}) if as_json else f"{recipe}: right ({loaded.fingerprint[:12]})")


@app.command("ls")
def list_shelves(shelf: Annotated[str | None, typer.Argument(help="One shelf; all of them without it.")] = None, as_json: Json = False) -> None:
    """List the techniques on the shelves, with their recipe keys.

    Example: planish ls adapters
    """
    from planish import shelf as shelves
    from planish.errors import InputError, Problem, did_you_mean

    if shelf is not None and shelf not in shelves.SHELVES:
        raise InputError(Problem("ls", f'there is no shelf "{shelf}"', did_you_mean(shelf, shelves.SHELVES)))
    found = {name: shelves.shelf(name) for name in shelves.SHELVES if shelf in (None, name)}
    if as_json:
        table = {
            name: {one.name: {"summary": one.summary, "keys": {key: repr(default) for key, (_, default) in one.keys.items()}} for one in items.values()}
            for name, items in found.items()
        }
        typer.echo(json.dumps(table, indent=1))
        return
    for name, items in found.items():
        typer.echo(name)
        for one in items.values():
            typer.echo(f"  {one.name:<18} {one.summary}")
            if shelf is not None:
                for key, (kind, default) in one.keys.items():
                    kind_name = getattr(kind, "__name__", str(kind)).replace("typing.", "")
                    typer.echo(f"    {key}: {kind_name} = {'(required)' if default is ... else default!r}")
        if not items:
            typer.echo("  (empty so far)")


@app.command()
def runs(workspace: Workspace = HERE, as_json: Json = False) -> None:
    """List the runs of this workspace, newest first.

    Example: planish runs
    """
    from planish.store import Store

    found = Store(workspace).runs()
    if as_json:
        typer.echo(json.dumps([{key: row[key] for key in ("id", "name", "status", "exit_code", "created", "parent")} for row in found], indent=1))
        return
    for row in found:
        typer.echo(f"{row['id']}  {row['status']:<12} {row['name']}" + (f"  parent {row['parent']}" if row["parent"] else ""))
    if not found:
        typer.echo("no runs yet: planish run recipe.yaml")


@app.command()
def show(run: RunId = "last", workspace: Workspace = HERE, as_json: Json = False) -> None:
    """Show one run: its stages, the ladder, the verdict.

    Example: planish show last
    """
    from planish import report
    from planish.store import Store

    store = Store(workspace)
    row = store.run(run)
    if as_json:
        typer.echo(json.dumps({"run": row["id"], "status": row["status"], "stages": store.stages(row["id"])}, indent=1, default=str))
    else:
        report.show(workspace, row["id"])


@app.command()
def events(
    run: Annotated[str | None, typer.Argument(help="A run; every run without it.")] = None,
    workspace: Workspace = HERE,
    verify: Annotated[bool, typer.Option("--verify", help="Check the hash chain instead; exit 1 names the first bad event.")] = False,
    as_json: Json = False,
) -> None:
    """List what happened, or verify that the record is whole.

    Example: planish events last
    """
    from planish.store import Store

    store = Store(workspace)
    if verify:
        bad = store.verify()
        typer.echo(json.dumps({"ok": bad is None, "first_bad": bad}) if as_json else "the chain holds" if bad is None else f"broken: first bad event {bad}")
        sys.exit(0 if bad is None else 1)
    for event in store.events(store.run(run)["id"] if run is not None else None):
        if as_json:
            typer.echo(event.model_dump_json())
        else:
            reason = f" ({event.reason_code})" if event.reason_code else ""
            typer.echo(f"{event.seq:>5} {event.ts[:19]} {event.severity:<7} {event.type:<19} {event.subject}{reason}")


@app.command()
def stop(workspace: Workspace = HERE) -> None:
    """Stop the endpoints of this workspace; answers in flight are finished first.

    Example: planish stop
    """
    from planish.stages._deployment import live
    from planish.store import Store

    store = Store(workspace)
    found = live(store)
    for deployment in found:
        deployment.stop()
        store.stop_deployment(deployment.id)
        typer.echo(f"stopped {deployment.id} at {deployment.url}")
    if not found:
        typer.echo("no endpoint is running")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, with the fix for what is missing.

    Example: planish doctor
    """
    from planish.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=1))
        return
    for finding in findings:
        typer.echo(
            f"{'ok ' if finding.ok else 'NO '} {finding.what:<22} {finding.detail}" + (f"\n      fix: {finding.fix}" if finding.fix and not finding.ok else "")
        )


@data_app.command("reviews")
def reviews(out: Annotated[Path, typer.Option(help="The file to write.")] = Path("reviews.jsonl")) -> None:
    """Write 3,708 rated sentences of Amazon reviews (MIT licence) as classification rows.

    Example: planish data reviews --out reviews.jsonl
    """
    from planish.data.reviews import write_reviews

    counts = write_reviews(out)
    typer.echo(f"{out}: {sum(counts.values())} rows (" + ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) + ")")


if __name__ == "__main__":
    main()
