"""Verbs over rows: check, convert, map, mask, preflight, and the data sets that come with planish."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planish.cli.options import HERE, Json, Workspace, app, data_app

if TYPE_CHECKING:
    pass


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A recipe (.yaml), a file or folder of rows, or hub:owner/name[:split].", show_default=False)],
    gold: Annotated[Path | None, typer.Option(help="Rows that must not be trained on: looks for them in the file.")] = None,
    task: Annotated[str | None, typer.Option(help="What the rows are for; by their keys without it.")] = None,
    labels: Annotated[str | None, typer.Option(help="The declared labels, with commas between them.")] = None,
    group_by: Annotated[str | None, typer.Option(help="The column whose rows belong together.")] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="Allow rows of several shapes.")] = False,
    only: Annotated[str | None, typer.Option("--checks", help="These checks only, with commas between them.")] = None,
    model: Annotated[str | None, typer.Option(help="A model, for the checks that look at tokens.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for rejected.jsonl and findings.jsonl.")] = None,
    as_json: Json = False,
) -> None:
    """Check a recipe, or rows: every error at once, with its line. Nothing is run or stored; exit 2 where anything is refused.

    Example: planish check rows.jsonl --model smollm2-135m-instruct
    """
    if path.suffix in (".yaml", ".yml"):
        from planish.recipe import Recipe

        loaded = Recipe.load(path)
        told = f"{path}: its keys are right ({loaded.fingerprint[:12]}); planish preflight {path} looks at its rows, its models and this machine"
        typer.echo(json.dumps({"ok": True, "fingerprint": loaded.fingerprint}) if as_json else told)
        return
    from planish import check as checking
    from planish.progress import Terminal
    from planish.recipe_keys import Use
    from planish.shelf import find

    uses = [Use(name=find("checks", name.strip()).name) for name in only.split(",")] if only is not None else None
    progress = Terminal()
    checked = checking.check_rows(
        path,
        gold=gold,
        task=_task(task),
        labels=[label.strip() for label in labels.split(",")] if labels is not None else None,
        group_by=group_by,
        mixed=mixed,
        checks=uses,
        chat=_chat_of(model) if model is not None else None,
        running=lambda name: progress.say(f"  check {name}"),
    )
    if out is not None:
        checking.write(checked, out)
    typer.echo(json.dumps(checking.as_json(checked), indent=1) if as_json else checking.text(checked))
    sys.exit(checked.exit_code)


def _task(name: str | None) -> Any:
    """A task shape by name, or InputError with the nearest."""
    from typing import get_args

    from planish.errors import InputError, Problem, did_you_mean
    from planish.recipe_data import TaskShape

    if name is not None and name not in get_args(TaskShape):
        raise InputError(Problem("--task", f'unknown task "{name}"', did_you_mean(name, get_args(TaskShape))))
    return name


def _chat_of(model: str) -> Callable[[], Any]:
    """Loads the tokenizer and template of a model, when they are wanted. Raises InputError at once where there is no such model."""
    from planish.model import bundled

    where = bundled.locate(model, Path.cwd())

    def load() -> Any:
        from planish.model.chat import Chat

        return Chat.load(where)

    return cache(load)


CONVERTS_TO = "openai, alpaca, sharegpt, prompt_completion, text, dpo, openai_preference, kto, prm, label, extraction, summary, qa"


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="A file of rows, a folder of such files, or hub:owner/name[:split].", show_default=False)],
    to: Annotated[str, typer.Option(help=f"The format to write: {CONVERTS_TO}.")],
    out: Annotated[Path, typer.Option(help="The file to write: .jsonl, .json, .csv, .tsv (each also .gz) or .parquet.")],
    lossy: Annotated[bool, typer.Option("--lossy", help="Write although something is lost; what was is counted.")] = False,
    as_json: Json = False,
) -> None:
    """Write rows in another format. What would be lost is said first, and refused unless --lossy.

    Example: planish convert rows.jsonl --to alpaca --out alpaca.json
    """
    from planish.data.convert import convert

    done = convert(file, to, out, lossy=lossy)
    if as_json:
        typer.echo(done.model_dump_json(indent=1))
        return
    typer.echo(f"{out}: {done.n_out} {to} rows of {done.n_in} rows read")
    for word, counts in (("lost", done.lost), ("left out", done.dropped)):
        for what, count in counts.items():
            typer.echo(f"  {word}: {what} ({count})")


@app.command("map")
def map_columns(
    file: Annotated[str, typer.Argument(help="A file of rows with columns of unknown names.", show_default=False)],
    shape: Annotated[str | None, typer.Option(help="The shape the rows must have: chat, label, question, preference, ...; any without it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the mapping to this YAML file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Take the best reading although it is not sure; a tie is never broken.")] = False,
    as_json: Json = False,
) -> None:
    """Propose which column is what, with a confidence and a reason, after a dry run on up to 200 rows. Not sure: exit 2 with the mappings to choose from.

    Example: planish map rows.csv --shape label --out mapping.yaml
    """
    from planish.data import mapping
    from planish.data.formats import read_records
    from planish.store.objects import write_atomic

    proposal = mapping.propose(read_records(file), shape)
    if as_json:
        typer.echo(json.dumps(proposal.model_dump() | {"confidence": proposal.confidence, "sure": proposal.sure}, indent=1))
    else:
        for reading in proposal.readings[:5]:
            counts = ", ".join(f"{code} {count}" for code, count in reading.counts.items())
            typer.echo(f"{reading.shape} ({reading.format}): {counts} of {proposal.n} rows; {reading.reason}")
    settled = mapping.settle(proposal, file, force=force)
    if out is not None:
        write_atomic(out, (mapping.yaml(settled) + "\n").encode())
    if not as_json:
        typer.echo(f"confidence {proposal.confidence:.2f}\n{mapping.yaml(settled)}")


@app.command()
def mask(
    file: Annotated[Path, typer.Argument(help="A file or folder of rows, or a data set.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model whose tokenizer and template are used.")] = "smollm2-135m-instruct",
    row: Annotated[list[str] | None, typer.Option(help="Show this row, by its id or line; may be given several times.")] = None,
    count: Annotated[int, typer.Option(help="How many rows to show where none is named.", min=0)] = 3,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Show in red what is beyond this many tokens.", min=2)] = None,
    last: Annotated[bool, typer.Option("--last", help="Train the last answer of each dialogue alone.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="List each token with its id and why it has its colour.")] = False,
    task: Annotated[str | None, typer.Option(help="What the rows are for; by their keys without it.")] = None,
    as_json: Json = False,
) -> None:
    """Show which tokens of a row are trained: scored green, masked grey, cut red.

    Example: planish mask rows.jsonl --row r12
    """
    from planish.model import dialogues, mask_view
    from planish.model.measured import measure
    from planish.store.objects import write_atomic

    found = dialogues.read(file, _task(task))
    chosen = [found.row(one) for one in row] if row else [found.row(one) for one in found.table.ids[:count]]
    chat = _chat_of(model)()
    turns: Any = "last" if last else "all"
    views = [mask_view.look(one, chat, max_length=max_length, turns=turns) for one in chosen]
    total = measure(found.table, chat, turns)
    counts = {"rows": len(total.ids), "refused": len(total.faults()), "tokens": int(total.lengths.sum()), "trained": total.scored, "share": total.share}
    line = f"{counts['rows']} rows, {counts['refused']} refused: {counts['trained']} of {counts['tokens']} tokens trained ({total.share:.1%})"
    if html is not None:
        write_atomic(html, mask_view.page(views, f"mask of {file.name}", line).encode())
    if as_json:
        typer.echo(json.dumps({"model": model, "total": counts, "rows": [mask_view.as_json(view) for view in views]}, indent=1))
    elif html is not None:
        typer.echo(f"{html}: {len(views)} rows of {line}")
    else:
        typer.echo(mask_view.text(views, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ, tokens=tokens), color=True)
        typer.echo(line)


@app.command()
def preflight(
    path: Annotated[Path, typer.Argument(help="A recipe (.yaml), a file or folder of rows, or hub:owner/name[:split].", show_default=False)],
    model: Annotated[str | None, typer.Option(help="The model to train; a recipe names its own.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens a row may have; what the model states without it.", min=2)] = None,
    policy: Annotated[str, typer.Option(help="What becomes of longer rows: refuse, drop, cut_prompt_left or split.")] = "refuse",
    last: Annotated[bool, typer.Option("--last", help="Train the last answer of each dialogue alone.")] = False,
    template: Annotated[Path | None, typer.Option(help="A chat template for a base model that has none.")] = None,
    task: Annotated[str | None, typer.Option(help="What the rows are for; by their keys without it.")] = None,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Look at rows, template, mask and model files before any model is loaded: one line a check, exit 2 where one is red. Of a recipe, all that a run would refuse.

    Example: planish preflight rows.jsonl --model smollm2-135m-instruct --max-length 1024
    """
    from typing import get_args

    from planish.cli import preflight_recipe
    from planish.errors import InputError, Problem, did_you_mean
    from planish.model import bundled, dialogues
    from planish.model import preflight as flying
    from planish.model.fit import Policy
    from planish.recipe import Recipe

    if policy not in get_args(Policy):
        raise InputError(Problem("--policy", f'unknown policy "{policy}"', did_you_mean(policy, get_args(Policy))))
    recipe = Recipe.load(path) if path.suffix in (".yaml", ".yml") else None
    name = model or (recipe.model if recipe else None)
    if name is None:
        raise InputError(Problem("--model", "rows alone say nothing of tokens", "name the model that is to be trained"))
    recipe = recipe and recipe.model_copy(update={"model": name})
    entry = recipe.train[0] if recipe and recipe.train else None
    refused = preflight_recipe.refusals(recipe, workspace) if recipe else ()
    try:
        lines = flying.preflight(
            flying.Flight(
                dialogues.of_recipe(recipe) if recipe else dialogues.read(path, _task(task)),
                bundled.locate(name, path.parent if recipe else Path.cwd()),
                template=_text_of(template) if template else None,
                turns="last" if last else "all",
                max_length=max_length or (entry.max_length if entry else None),
                policy=policy,  # type: ignore[arg-type]
                targets=tuple(flying.targets(entry)) if entry else (),
                workspace=workspace.absolute(),
                full=entry is not None and entry.adapter.name == "full",
            )
        )
    except InputError:
        if refused:  # rows or a model that are not there: a run says so too, with all else
            raise InputError(*refused) from None
        raise
    lines += preflight_recipe.lines(recipe, refused) if recipe else []
    typer.echo(json.dumps([line._asdict() for line in lines], indent=1) if as_json else flying.text(lines))
    sys.exit(2 if any(line.status == "red" for line in lines) else 0)


def _text_of(path: Path) -> str:
    """A template as it stands in its file."""
    from planish.errors import InputError, Problem

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as other:
        raise InputError(Problem(f"--template {path}", f"is not UTF-8 from byte {other.start + 1} on", "give the template as text in UTF-8")) from other


@data_app.command("reviews")
def reviews(out: Annotated[Path, typer.Option(help="The file to write.")] = Path("reviews.jsonl")) -> None:
    """Write 3,708 rated sentences of Amazon reviews (MIT licence) as classification rows.

    Example: planish data reviews --out reviews.jsonl
    """
    from planish.data.reviews import write_reviews

    counts = write_reviews(out)
    typer.echo(f"{out}: {sum(counts.values())} rows (" + ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) + ")")
