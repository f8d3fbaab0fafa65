"""Verbs over a model's vocabulary: words of a domain that become tokens of their own (MISSION C2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from planish.cli.options import Json, app

vocabulary_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A model's vocabulary: a domain's words as tokens.\n\nExample: planish vocabulary extend smollm2-135m-instruct --documents docs",
)
app.add_typer(vocabulary_app, name="vocabulary")


@vocabulary_app.command("extend")
def extend(
    model: Annotated[str, typer.Argument(help="A bundled name, a hub id, or a folder.", show_default=False)],
    documents: Annotated[Path, typer.Option(help="Documents of the domain: a file or a folder of .txt, .md, .rst or text rows.", show_default=False)],
    tokens: Annotated[int, typer.Option(min=1, help="At most this many new tokens.")] = 1000,
    least_count: Annotated[int, typer.Option(min=1, help="Leave out words seen fewer times.")] = 20,
    least_pieces: Annotated[int, typer.Option(min=2, help="Leave out words that are fewer pieces now.")] = 3,
    steps: Annotated[int, typer.Option(min=0, help="Train the new rows first, this many steps, with everything else frozen.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")] = Path("extended"),
    anyway: Annotated[bool, typer.Option("--anyway", help="Write it against the advice; the exit code is 0.")] = False,
    as_json: Json = False,
) -> None:
    """Add a domain's frequent words to a model's tokenizer; the result is a plain model folder. Exit code 3, with nothing written, where it is not worth it.

    Example: planish vocabulary extend smollm2-135m-instruct --documents docs --tokens 1000 --steps 200 --out extended
    """
    from planish.data import documents as reading
    from planish.errors import InputError, Problem
    from planish.model import bundled, new_tokens
    from planish.model.chat import Chat
    from planish.model.extend import extend as write_extended
    from planish.progress import Terminal
    from planish.store.objects import write_folder

    if out.exists():
        raise InputError(Problem(str(out), "exists already", "give a new folder"))
    base, texts = bundled.locate(model), reading.read(documents)
    found = new_tokens.find(Chat.load(base), texts, tokens, least_count=least_count, least_pieces=least_pieces)
    before, after = found.fertility
    said = f"{len(found.new)} words, {before:.2f} -> {after:.2f} tokens a word, {found.saving:.1%} of {found.tokens:,} tokens saved"
    told = {"new": len(found.new), "fertility": [before, after], "saving": found.saving, "tokens": found.tokens, "advice": found.advice}
    if not found.new or (found.advice is not None and not anyway):
        why = f"{found.advice} (--anyway writes it all the same)" if found.new else f"no word is seen {least_count} times and in {least_pieces} pieces or more"
        typer.echo(json.dumps(told | {"folder": None}) if as_json else f"{said}\nskip it: {why}")
        raise typer.Exit(3)
    with Terminal().bar("training the new rows", steps) as advance:

        def fill(partial: Path) -> None:
            write_extended(base, texts, found, partial, steps=steps, on_step=lambda loss: advance(1, f"loss {loss:.3f}"))

        made = write_folder(out, fill)
    about = json.loads((made / new_tokens.ABOUT).read_text(encoding="utf-8"))
    grown = f"{about['grown']} rows more, {about['parameters']:,} parameters"
    typer.echo(json.dumps(told | {"folder": str(out), "parameters": about["parameters"]}) if as_json else f"{out}: {said}; {grown}")
