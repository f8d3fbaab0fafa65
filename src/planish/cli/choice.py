"""Verbs that choose: which technique, before anything is run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planish.cli.options import HERE, Json, Workspace, app
from planish.cli.rows import _task

if TYPE_CHECKING:
    from planish.evidence.guide import Answers


@app.command()
def advise(
    source: Annotated[
        str | None, typer.Argument(help="A file or folder of rows, or a run (its id, the beginning of one, last); answers alone without it.")
    ] = None,
    gap: Annotated[str | None, typer.Option(help="What is missing: knowledge, behaviour, steering, preference, reasoning or tools.")] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="What it must be: size, device, cost, breadth or reliability; may be given several times.")
    ] = None,
    goal: Annotated[str | None, typer.Option(help='The bar to clear, as "macro_f1 >= 0.85".')] = None,
    changing: Annotated[bool | None, typer.Option("--changing/--lasting", help="Whether the facts it needs change.")] = None,
    rare: Annotated[bool | None, typer.Option("--rare/--often", help="How often the behaviour is wanted.")] = None,
    prompt_holds: Annotated[float | None, typer.Option(help="Share of cases that the prompt alone gets right, as 0.8.")] = None,
    skills: Annotated[int | None, typer.Option(help="How many models are to become one.")] = None,
    same_base: Annotated[bool | None, typer.Option("--same-base/--other-bases", help="Whether those come from one base.")] = None,
    task: Annotated[str | None, typer.Option(help="What the rows are for; by their keys without it.")] = None,
    model: Annotated[str, typer.Option(help="The model to plan for.")] = "smollm2-135m-instruct",
    device: Annotated[str | None, typer.Option(help='A device to plan for, as "RTX 4090"; this machine without it.')] = None,
    memory: Annotated[str | None, typer.Option(help="Memory to plan for, as 24GB.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write the recipe to this new file.")] = None,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Say which technique fits the gap, why, what it costs and when not to: measured facts first, nothing is trained.

    Example: planish advise reviews.jsonl --gap behaviour --goal "macro_f1 >= 0.85" --write recipe.yaml
    """
    from planish import advise as advising
    from planish import plan as planning
    from planish.advise import drafted
    from planish.errors import InputError, Problem

    given: dict[str, Any] = {"gap": gap, "constraints": tuple(constraint or ()), "changing": changing, "rare": rare}
    answers = _answers(**given, prompt_holds=prompt_holds, skills=skills, same_base=same_base)
    if write is not None and source is None:
        raise InputError(Problem("--write", "without rows there is no recipe to write", "give a file of rows"))
    where = planning.machine(device, memory) if source is not None else None
    counsel = advising.of(source, answers, goal=goal, task=_task(task), model=model, machine=where, workspace=workspace)
    if write is not None and counsel.recipe is not None:
        drafted.write(write, counsel.recipe, counsel.why)
    typer.echo(json.dumps(advising.as_json(counsel), indent=1) if as_json else advising.text(counsel))
    if write is not None and not as_json:
        typer.echo(f"\n{write}: check it with planish check {write}, then planish run {write}")


@app.command()
def climb(
    source: Annotated[Path, typer.Argument(help="Rows, or a recipe (.yaml) whose data, model and scorers hold for every rung.", show_default=False)],
    goal: Annotated[str, typer.Option(help='The bar to clear, as "macro_f1 >= 0.85".', show_default=False)],
    gap: Annotated[
        str | None, typer.Option(help="What is missing: knowledge, behaviour, steering, preference, reasoning or tools; it picks the rungs.")
    ] = None,
    constraint: Annotated[list[str] | None, typer.Option(help="What it must be: size, device, cost, breadth or reliability.")] = None,
    rungs: Annotated[str | None, typer.Option(help="Only these rungs, as prompt,few_shot,lora.")] = None,
    gold: Annotated[Path | None, typer.Option(help="A gold file of your own; a part of the rows without it.")] = None,
    task: Annotated[str | None, typer.Option(help="What the rows are for; by their keys without it.")] = None,
    model: Annotated[str, typer.Option(help="The model.")] = "smollm2-135m-instruct",
    min_gain: Annotated[float, typer.Option(help="What a dearer rung must gain over the best below it.")] = 0.02,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Climb the ladder rung by rung from the cheapest, up to the first that clears the goal; then say what to ship and why.

    Exit 0 where a rung clears it, 3 where none does or more gold is needed.

    Example: planish climb reviews.jsonl --goal "macro_f1 >= 0.60"
    """
    from planish import climb as climbing
    from planish.climb import page
    from planish.progress import Terminal

    answers = _answers(gap=gap, constraints=tuple(constraint or ()))
    only = [name.strip() for name in rungs.split(",")] if rungs else None
    recipe, facts = climbing.start(source, model=model, task=_task(task), gold=gold)
    found = climbing.climb(recipe, goal, facts=facts, answers=answers, only=only, min_gain=min_gain, workspace=workspace, progress=Terminal())
    written = page.write(found)
    if as_json:
        typer.echo(json.dumps(found.climb.model_dump(mode="json") | {"runs": found.runs, "report": str(written)}, indent=1))
    else:
        page.show(found)
        typer.echo(f"\nreport: {written}" + (f"\ngo on with: planish run {found.folder / 'recipe.yaml'}" if found.climb.ship else ""))
    sys.exit(found.exit_code)


def _answers(**given: Any) -> Answers:
    """What was said of the problem. Raises InputError naming the option that nothing is known under."""
    from pydantic import ValidationError

    from planish.errors import InputError, Problem
    from planish.evidence.guide import Answers

    try:
        return Answers(**given)
    except ValidationError as refused:
        problems = [Problem(f"--{_option(error['loc'])}", f'"{error["input"]}": {error["msg"]}', _fix(error)) for error in refused.errors()]
        raise InputError(*problems) from None


def _option(loc: tuple[int | str, ...]) -> str:
    """The option that an answer came from."""
    return {"constraints": "constraint"}.get(str(loc[0]), str(loc[0])).replace("_", "-")


def _fix(error: Any) -> str:
    """The nearest name where one was asked for."""
    from typing import get_args

    from planish.errors import did_you_mean
    from planish.evidence.guide_rows import Constraint, Gap

    names = {"gap": get_args(Gap), "constraints": get_args(Constraint)}.get(str(error["loc"][0]))
    return did_you_mean(str(error["input"]), names) if names else "see: planish advise --help"
