"""The verb that makes a model smaller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from planish.cli.options import HERE, Json, Workspace, app


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="A model folder, or a bundled name.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")] = Path("pruned"),
    layers: Annotated[int, typer.Option(min=0, help="Layers to remove.")] = 0,
    heads: Annotated[int, typer.Option(min=0, help="Groups of attention heads to remove from every layer.")] = 0,
    channels: Annotated[int, typer.Option(min=0, help="MLP channels to remove from every layer.")] = 0,
    vocabulary: Annotated[int | None, typer.Option(min=1, help="Tokens to keep; needs --recipe.")] = None,
    target: Annotated[str | None, typer.Option(help="Parameters to come down to, as 110M or 80%, by removing --take.")] = None,
    latency: Annotated[str | None, typer.Option(help='Time a token to come down to, measured here, as "20 ms" or "60 tokens/s", by removing --take.')] = None,
    take: Annotated[str, typer.Option(help="What the target takes out: layers, heads or channels.")] = "channels",
    by: Annotated[str, typer.Option(help="Importance: magnitude, gradient, hessian, obs, activation, influence (layers), ablation.")] = "magnitude",
    recipe: Annotated[Path | None, typer.Option(help="A recipe whose training rows say what matters; gold is not read.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Training rows that units are scored on.")] = 128,
    compare: Annotated[bool, typer.Option("--compare", help="Score by every method but ablation, and say how alike they rank.")] = False,
    rewind: Annotated[Path | None, typer.Option(help="The model before tuning: units chosen in MODEL are cut from it, to be tuned again.")] = None,
    zero: Annotated[str | None, typer.Option(help="Zero weights instead: magnitude, wanda or nm_sparsity. The file stays as large.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of weights that --zero magnitude or wanda zeroes; 0.5 without it.")] = None,
    pattern: Annotated[str | None, typer.Option(help="N:M of --zero nm_sparsity; 2:4 without it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the size that would be left; nothing is written.")] = False,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Take layers, attention heads, MLP channels or vocabulary out of a model; what is left is a plain smaller checkpoint.

    Example: planish prune smollm2-135m-instruct --layers 3 --by influence --recipe recipe.yaml --out pruned
    """
    from planish import prune as pruning
    from planish.errors import InputError, Problem
    from planish.model import bundled
    from planish.progress import Terminal
    from planish.stages._prune import Removal

    if take not in ("layers", "heads", "channels"):
        raise InputError(Problem("--take", f'"{take}" cannot be taken out to a target', "layers, heads or channels"))
    options = _zeroing(zero, sparsity, pattern)
    progress, folder = Terminal(), bundled.locate(model)
    told = pruning.Text() if recipe is None else pruning.text_of(recipe, folder, workspace, progress, rows=rows)
    request = pruning.Request(
        removal=Removal(layers=layers, heads=heads, channels=channels, vocabulary=vocabulary, by=by),
        target=target,
        latency=latency,
        take=take,
        zero=zero,
        compare=compare,
        rewind=rewind,
        options=options,
    )
    done, agreed, fertility = pruning.run(folder, None if dry_run else out, request, told, progress)
    shown = done.model_dump(mode="json") | {"agreement": [one.model_dump() for one in agreed], "fertility": fertility}
    typer.echo(json.dumps(shown, indent=1) if as_json else pruning.text(done, agreed, fertility))


@app.command()
def recovery(
    parent: Annotated[Path, typer.Argument(help="Report of the unpruned parent: reports/NAME.json of an evaluate stage.", show_default=False)],
    pruned: Annotated[Path, typer.Argument(help="Report of the pruned model.", show_default=False)],
    recovered: Annotated[Path, typer.Argument(help="Report of the pruned model after tuning.", show_default=False)],
    metric: Annotated[str, typer.Option(help="What is compared.")] = "label.accuracy",
    as_json: Json = False,
) -> None:
    """Say what pruning cost and what tuning won back, on the same gold rows.

    Example: planish recovery parent.json pruned.json recovered.json --metric label.macro_f1
    """
    from planish import prune as pruning

    found = pruning.recovered(parent, pruned, recovered, metric)
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=1) if as_json else found.sentence)


def _zeroing(zero: str | None, sparsity: float | None, pattern: str | None) -> dict[str, Any]:
    """The options of a technique that zeroes. Raises InputError for one that has no part in what is asked."""
    from planish.errors import InputError, Problem

    unused = {"--sparsity": sparsity if zero in (None, "nm_sparsity") else None, "--pattern": pattern if zero != "nm_sparsity" else None}
    problems = [
        Problem(
            option,
            f"has no part in {'taking units out' if zero is None else f'--zero {zero}'}",
            "leave it out; --sparsity 0.5 goes with --zero magnitude or wanda, --pattern 2:4 with --zero nm_sparsity",
        )
        for option, given in unused.items()
        if given is not None
    ]
    if problems:
        raise InputError(*problems)
    return {} if zero is None else _pattern(pattern or "2:4") if zero == "nm_sparsity" else {"sparsity": 0.5 if sparsity is None else sparsity}


def _pattern(given: str) -> dict[str, Any]:
    from planish.errors import InputError, Problem

    n, _, m = given.partition(":")
    if not (n.isdigit() and m.isdigit()):
        raise InputError(Problem("--pattern", f'"{given}" is no N:M', "2:4"))
    return {"n": int(n), "m": int(m)}
