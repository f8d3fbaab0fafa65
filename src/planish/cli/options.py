"""What the verbs share: the application, its groups, and the arguments that many take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
gold_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The gold set: what it can see, its versions, its blind half.\n\nExample: planish gold show gold.jsonl"
)
app.add_typer(gold_app, name="gold")
adapter_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Adapters: listed, merged, combined, exchanged, adopted.\n\nExample: planish adapter list .planish"
)
app.add_typer(adapter_app, name="adapter")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Workspace = Annotated[Path, typer.Option(help="Where runs, artifacts and events are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Unproven = Annotated[
    bool, typer.Option("--unproven", help="Run the stages behind a gate that said no; what they make is marked UNPROVEN. The exit code stays 3.")
]
RunId = Annotated[str, typer.Argument(help="A run's id, the beginning of one, or last.")]

HERE = Path(".planish")
