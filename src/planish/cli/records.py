"""Verbs over what is there: techniques, runs, events, endpoints, this machine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from planish.cli.options import HERE, Json, RunId, Workspace, app

if TYPE_CHECKING:
    pass


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
