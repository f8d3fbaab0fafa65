"""Verbs of distillation: a teacher's word captured, its answers written down, a smaller copy of it made, and whether the student should ship (MISSION S)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from planish.cli.options import HERE, Json, RecipePath, Workspace, app


@app.command()
def capture(
    context: typer.Context,
    recipe: RecipePath,
    teacher: Annotated[str, typer.Option(help="The teacher: a bundled name, a folder, a hub id, or an endpoint's address ending in /v1.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to add to; rows that are there are not asked again.")] = Path("capture"),
    model: Annotated[str | None, typer.Option(help="The teacher's name at an endpoint.")] = None,
    answers: Annotated[Literal["rows", "teacher"], typer.Option(help="Whose answers: those of the rows, which the teacher reads, or its own.")] = "rows",
    k: Annotated[int, typer.Option(help="Keep at most so many tokens of a position ...")] = 50,
    mass: Annotated[float, typer.Option(help="... or as few as hold this much of the probability.")] = 0.999,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Keep less likely tokens in the lines alone: 0.0015 with --k 192 makes the compact file small at no more error.")
    ] = 0.0,
    temperatures: Annotated[str, typer.Option(help="At which temperatures a student may learn from it, with commas between.")] = "1,2",
    tail_samples: Annotated[int, typer.Option(help="Draws to keep from what is left of a position, for kd with tail: sampled.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer that the teacher writes; one that is cut there is not trained on.")] = 256,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="The number format of a local teacher: bf16 where the machine has it; fp32 is exact, and slower.")
    ] = "auto",
    parallel: Annotated[int, typer.Option(min=1, help="Calls to an endpoint at once.")] = 8,
    key_env: Annotated[str, typer.Option(help="The environment variable that holds the endpoint's key.")] = "PLANISH_API_KEY",
    allow_private: Annotated[bool, typer.Option("--allow-private", help="Allow an address of a private network.")] = False,
    rows: Annotated[int | None, typer.Option(min=1, help="Take at most this many rows.")] = None,
    align: Annotated[bool, typer.Option("--align", help="Let a local teacher of another vocabulary speak where both write the same tokens.")] = False,
    text: Annotated[
        Path | None, typer.Option(help="Write the teacher's answers to this file as rows for sft instead; its tokenizer may be another. Goes on after a kill.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="With --text: answers to each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="With --text: how freely it answers.")] = 0.8,
    verifier: Annotated[str, typer.Option(help="With --text: keep answers that this verifier finds right: exact, numeric, json_schema, regex.")] = "none",
    options: Annotated[str, typer.Option(help="With --text: the verifier's options, as JSON.")] = "{}",
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Run a teacher once over the training rows and keep what it finds likely, for the objective kd. Gold rows are never asked.

    Example: planish capture recipe.yaml --teacher smollm2-135m-instruct --out capture
    """
    from planish import capture as capturing
    from planish.errors import InputError, Problem
    from planish.progress import Terminal
    from planish.recipe import Recipe

    _require_together(context, text)
    try:
        at = tuple(float(part) for part in temperatures.split(","))
    except ValueError:
        raise InputError(Problem("--temperatures", f'"{temperatures}" is no list of numbers', "write 1,2")) from None
    how = capturing.How(
        teacher=teacher,
        model=model,
        answers=answers,
        k=k,
        mass=mass,
        least=least,
        temperatures=at,
        tail_samples=tail_samples,
        max_new_tokens=max_new_tokens,
        precision=precision,
        parallel=parallel,
        key_env=key_env,
        allow_private=allow_private,
        rows=rows,
        align=align,
    )
    if text is not None:
        from planish.capture import texts

        told = texts.write(
            Recipe.load(recipe),
            how,
            text,
            samples=samples,
            temperature=temperature,
            verifier=verifier,
            options=_object(options),
            workspace=workspace,
            progress=Terminal(),
        )
        counted = ", ".join(f"{count} {name}" for name, count in told.items() if isinstance(count, int))
        typer.echo(json.dumps(told, indent=1) if as_json else f"{told['file']}: {counted}\n{told['note']}")
        return
    found = capturing.capture(Recipe.load(recipe), how, out, workspace=workspace, progress=Terminal())
    typer.echo(json.dumps(found.as_json(), indent=1) if as_json else found.text())


OF_TEXT, OF_CAPTURE = ("samples", "temperature", "verifier", "options"), ("out", "align", "k", "mass", "least", "temperatures", "tail_samples")
"""Options that mean something with --text alone, or without it."""


def _require_together(context: typer.Context, text: Path | None) -> None:
    """Raises InputError for every option that would be left aside: `--temperature 2` is not `--temperatures 2`."""
    from planish.errors import InputError, Problem

    why, fix = ("is of what a capture keeps, and --text keeps none", "leave it out") if text else ("is of the answers that --text writes", "give --text FILE")
    problems = []
    for name in OF_CAPTURE if text else OF_TEXT:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            problems.append(Problem(f"--{name.replace('_', '-')}", why, fix + ("; a capture has --temperatures" if name == "temperature" else "")))
    if problems:
        raise InputError(*problems)


def _object(text: str) -> dict[str, Any]:
    from planish.errors import InputError, Problem

    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InputError(Problem("--options", "is no JSON object", 'write {"pattern": "[0-9]+"}'))
    return given


@app.command()
def retained(
    student: Annotated[str, typer.Argument(help="The student: a report file, a run (its tuned model), or RUN:SYSTEM.", show_default=False)],
    teacher: Annotated[str, typer.Argument(help="The teacher in the same way, on the same gold set: the model as it is, is RUN:prompt.", show_default=False)],
    control: Annotated[str, typer.Option(help="In the same way: the student fine-tuned on the same rows without a teacher.", show_default=False)],
    metric: Annotated[str, typer.Option(help='What is compared, as "label.macro_f1".', show_default=False)],
    target: Annotated[float, typer.Option(help="The share of the teacher that must be kept.")] = 0.95,
    curve: Annotated[
        Path | None, typer.Option(help="The student's metrics.jsonl, for its last cross-entropy, divergence and coverage; a run has its own.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the verdict is written.")] = Path("distill_report.json"),
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Say how much of its teacher a student kept, as a whole and by slice, and whether it should ship. Exit code 3 where it should not.

    Example: planish retained student.json teacher.json --control sft.json --metric label.macro_f1
    """
    from planish import retained as keeping
    from planish.store.objects import write_atomic

    found = keeping.judge(student, teacher, control, metric, target=target, curve=curve, workspace=workspace)
    told = json.dumps({**found.model_dump(mode="json"), "ci": found.ci}, indent=1)
    write_atomic(out, f"{told}\n".encode())
    typer.echo(told if as_json else keeping.text(found))
    if not found.ship:
        raise typer.Exit(3)
