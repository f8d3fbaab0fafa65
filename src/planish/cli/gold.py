"""Verbs over gold sets: what one can see, its versions, its blind half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planish.cli.options import HERE, Json, RecipePath, Workspace, gold_app

if TYPE_CHECKING:
    pass


@gold_app.command("show")
def gold_show(
    path: Annotated[Path, typer.Argument(help="A file of gold rows, or a prepared data set.", show_default=False)],
    discordance: Annotated[float, typer.Option(help="Share of rows on which two systems differ.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Show what a gold set of this size can and cannot see, before it is used.

    Example: planish gold show gold.jsonl
    """
    from planish import gold_page

    page = gold_page.of(path, discordance)
    typer.echo(json.dumps(page.model_dump(mode="json"), indent=1) if as_json else gold_page.text(page))


@gold_app.command("lock")
def gold_lock(
    path: Annotated[Path, typer.Argument(help="The file of gold rows.", show_default=False)],
    why: Annotated[str, typer.Option(help="Why this version: it is kept in the changelog.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Lock a gold file as a version; an edit without a new version is refused from then on.

    Example: planish gold lock gold.jsonl --why "first version"
    """
    from planish.data.gold_lock import lock

    made = lock(path, why)
    change = made.changes[-1]
    said = f"{path}: version {made.version}, {len(made.rows)} rows ({change.added} added, {change.removed} removed, {change.changed} changed)"
    typer.echo(made.model_dump_json(exclude={"rows"}) if as_json else said)


@gold_app.command("spend")
def gold_spend(recipe: RecipePath, workspace: Workspace = HERE, as_json: Json = False) -> None:
    """Score the tuned model and its best baseline on the blind half of the gold set. This can be done once.

    Example: planish gold spend recipe.yaml
    """
    from planish import blind
    from planish.progress import Terminal
    from planish.recipe import Recipe

    spent = blind.spend(Recipe.load(recipe), workspace, Terminal())
    if as_json:
        typer.echo(spent.model_dump_json(indent=1))
        return
    one = spent.comparison
    values = ", ".join(f"{report.system} {report.metrics[one.metric].value:.3f}" for report in (spent.candidate, spent.baseline))
    typer.echo(f"{len(spent.candidate.scores)} blind rows, {one.metric}: {values}")
    typer.echo(f"difference {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]")
