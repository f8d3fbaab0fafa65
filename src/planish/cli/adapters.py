"""Verbs over adapters: what there is, one put into its base, several put together, one exchanged for another, one from elsewhere bound to its base (MISSION A12)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from planish.cli.options import Json, adapter_app

Adapter = Annotated[Path, typer.Argument(help="An adapter's folder in PEFT's layout.", show_default=False)]
Base = Annotated[str, typer.Option(help="The base model: a bundled name, a hub id, or a folder.")]
Out = Annotated[Path, typer.Option(help="The folder to write; it must not exist.")]


@adapter_app.command("list")
def list_adapters(folder: Annotated[Path, typer.Argument(help="Where to look, with everything below it.")] = Path(), as_json: Json = False) -> None:
    """List adapters with their kind, base, parameters and bytes.

    Example: planish adapter list .planish
    """
    from planish.model import merge

    found = merge.listed(folder)
    if as_json:
        typer.echo(json.dumps([asdict(one) | {"folder": str(one.folder)} for one in found], indent=1))
        return
    for one in found:
        typer.echo(f"{one.folder}  {one.kind}  base {one.base[:19]}  trained on {one.trained_on}  {one.parameters:,} parameters  {one.bytes:,} bytes")
    if not found:
        typer.echo(f"no adapter below {folder}")


@adapter_app.command("merge")
def merge_adapter(
    adapter: Adapter,
    base: Base,
    out: Out = Path("merged"),
    into: Annotated[Literal["original", "dequantised"], typer.Option(help="The base as it is, or what its 4-bit copy stands for.")] = "original",
    as_json: Json = False,
) -> None:
    """Write the base with an adapter in its weights, in fp32, after both have given the same answers.

    Example: planish adapter merge run/adapter --base smollm2-135m-instruct --out merged
    """
    from planish.model import bundled, trained

    found: list[float] = []
    _write(out, lambda partial: found.append(trained.write_merged(bundled.locate(base), adapter, partial, into)))
    (apart,) = found
    typer.echo(json.dumps({"folder": str(out), "into": into, "apart": apart}) if as_json else f"{out}: merged and attached answers are {apart:.1e} nats apart")


@adapter_app.command("combine")
def combine_adapters(
    adapters: Annotated[list[Path], typer.Argument(help="LoRA folders of one base, with the same targets.", show_default=False)],
    weights: Annotated[str, typer.Option(help="A weight for each, with commas between; equal shares without it.")] = "",
    out: Out = Path("combined"),
    as_json: Json = False,
) -> None:
    """Write one LoRA whose difference is the weighted sum of several; its rank is the sum of theirs.

    Example: planish adapter combine a/adapter b/adapter --weights 0.7,0.3 --out both
    """
    from planish.errors import InputError, Problem
    from planish.model import merge

    try:
        shares = [float(part) for part in weights.split(",")] if weights else [1 / len(adapters)] * len(adapters)
    except ValueError:
        raise InputError(Problem("--weights", f'"{weights}" is no list of numbers', "write 0.7,0.3")) from None
    _write(out, lambda partial: merge.combine(adapters, shares, partial))
    said = {"folder": str(out), "weights": shares, "adapters": [str(folder) for folder in adapters]}
    typer.echo(json.dumps(said) if as_json else f"{out}: " + " + ".join(f"{share:g} x {folder}" for share, folder in zip(shares, adapters, strict=True)))


@adapter_app.command("swap")
def swap_adapters(
    adapter: Adapter, other: Annotated[Path, typer.Argument(help="What takes its place.", show_default=False)], base: Base, as_json: Json = False
) -> None:
    """Say whether one adapter can take another's place on a loaded base, without loading the base again, and how long that takes.

    Example: planish adapter swap a/adapter b/adapter --base smollm2-135m-instruct
    """
    from planish.model import bundled, merge

    seconds = merge.swap_seconds(bundled.locate(base), adapter, other)
    typer.echo(json.dumps({"seconds": seconds}) if as_json else f"{other} takes the place of {adapter} in {1000 * seconds:.1f} ms")


@adapter_app.command("adopt")
def adopt_adapter(adapter: Adapter, base: Base, out: Out = Path("adopted"), as_json: Json = False) -> None:
    """Bind an adapter that was made elsewhere, and names no base by hash, to a base that its tensors fit.

    Example: planish adapter adopt downloaded/adapter --base smollm2-135m-instruct --out mine/adapter
    """
    from planish.model import bundled, merge

    _write(out, lambda partial: merge.adopt(adapter, bundled.locate(base), partial))
    typer.echo(json.dumps({"folder": str(out)}) if as_json else f"{out}: bound to {base}")


def _write(out: Path, fill: Callable[[Path], object]) -> None:
    """Make the folder, complete or not at all. Raises InputError where it is there."""
    from planish.errors import InputError, Problem
    from planish.store.objects import write_folder

    if out.exists():
        raise InputError(Problem(str(out), "exists already", "give a new folder"))

    def filled(partial: Path) -> None:
        fill(partial)

    write_folder(out, filled)
