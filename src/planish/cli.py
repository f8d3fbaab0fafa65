"""The command line: the same functions as from Python, each printing for people, or JSON with --json."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import cache
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
gold_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The gold set: what it can see, its versions, its blind half.\n\nExample: planish gold show gold.jsonl"
)
app.add_typer(gold_app, name="gold")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Workspace = Annotated[Path, typer.Option(help="Where runs, artifacts and events are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Unproven = Annotated[
    bool, typer.Option("--unproven", help="Run the stages behind a gate that said no; what they make is marked UNPROVEN. The exit code stays 3.")
]
RunId = Annotated[str, typer.Argument(help="A run's id, the beginning of one, or last.")]

HERE = Path(".planish")
CONVERTS_TO = "openai, alpaca, sharegpt, prompt_completion, text, dpo, openai_preference, kto, prm, label, extraction, summary, qa"
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

    verb.__doc__ = _stage_help(stage, line)
    app.command(stage)(verb)


def _stage_help(stage: str, line: str) -> str:
    return f"{line}\n\nRuns the stages before it too, unless they are unchanged.\n\nExample: planish {stage} recipe.yaml"


def _train_verb(stage: str, line: str) -> None:
    def verb(
        recipe: RecipePath,
        workspace: Workspace = HERE,
        unproven: Unproven = False,
        find_lr: Annotated[bool, typer.Option("--find-lr", help="Measure a learning rate on a throw-away copy instead; nothing is trained.")] = False,
        as_json: Json = False,
    ) -> None:
        if find_lr:
            _find_lr(recipe, workspace, as_json)
        else:
            _run(recipe, workspace, stage, unproven, as_json)

    verb.__doc__ = _stage_help(stage, line)
    app.command(stage)(verb)


def _find_lr(path: Path, workspace: Path, as_json: bool) -> None:
    """The learning-rate range test of the first entry over the prepared rows: a table, a suggestion, and the curve in the workspace."""
    from planish.errors import InputError, Problem
    from planish.recipe import Recipe

    recipe = Recipe.load(path)
    if not recipe.train:
        raise InputError(Problem("train", "the recipe trains nothing", "add a train entry"))
    from planish import pipeline
    from planish.progress import Terminal
    from planish.stages import _lr_page as lr_page
    from planish.stages.train import find_learning_rate

    progress = Terminal()
    prepared = pipeline.run(recipe, workspace=workspace, until="prepare", progress=progress).stages["prepare"].folder
    assert prepared is not None  # nothing gates prepare
    found = find_learning_rate(recipe, prepared, progress)
    curve = lr_page.write(found, workspace, recipe)
    typer.echo(json.dumps({"lr_test": lr_page.as_json(found), "curve": str(curve)}, indent=1) if as_json else f"{lr_page.text(found)}\ncurve: {curve}")


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
    (_train_verb if _stage == "train" else _stage_verb)(_stage, _line)


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
def check(
    path: Annotated[Path, typer.Argument(help="A recipe (.yaml), or a file or folder of rows.", show_default=False)],
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
        typer.echo(json.dumps({"ok": True, "fingerprint": loaded.fingerprint}) if as_json else f"{path}: right ({loaded.fingerprint[:12]})")
        return
    from planish import check as checking
    from planish.progress import Terminal
    from planish.recipe import Use
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
    from planish.recipe import TaskShape

    if name is not None and name not in get_args(TaskShape):
        raise InputError(Problem("--task", f'unknown task "{name}"', did_you_mean(name, get_args(TaskShape))))
    return name


def _chat_of(model: str) -> Callable[[], Any]:
    """Loads the tokenizer and template of a model, when they are wanted."""

    def load() -> Any:
        from planish.model import bundled
        from planish.model.chat import Chat

        return Chat.load(bundled.locate(model, Path.cwd()))

    return cache(load)


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
    path: Annotated[Path, typer.Argument(help="A recipe (.yaml), or a file or folder of rows.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="The model to train; a recipe names its own.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens a row may have; what the model states without it.", min=2)] = None,
    policy: Annotated[str, typer.Option(help="What becomes of longer rows: refuse, drop, cut_prompt_left or split.")] = "refuse",
    last: Annotated[bool, typer.Option("--last", help="Train the last answer of each dialogue alone.")] = False,
    template: Annotated[Path | None, typer.Option(help="A chat template for a base model that has none.")] = None,
    task: Annotated[str | None, typer.Option(help="What the rows are for; by their keys without it.")] = None,
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Look at rows, template, mask and model files before any model is loaded: one line a check, exit 2 where one is red.

    Example: planish preflight rows.jsonl --model smollm2-135m-instruct --max-length 1024
    """
    from typing import get_args

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
    entry = recipe.train[0] if recipe and recipe.train else None
    lines = flying.preflight(
        flying.Flight(
            dialogues.of_recipe(recipe) if recipe else dialogues.read(path, _task(task)),
            bundled.locate(name, path.parent if recipe else Path.cwd()),
            template=template.read_text(encoding="utf-8") if template else None,
            turns="last" if last else "all",
            max_length=max_length or (entry.max_length if entry else None),
            policy=policy,  # type: ignore[arg-type]
            targets=tuple(flying.targets(entry)) if entry else (),
            workspace=workspace.absolute(),
            full=entry is not None and entry.adapter.name == "full",
        )
    )
    typer.echo(json.dumps([line._asdict() for line in lines], indent=1) if as_json else flying.text(lines))
    sys.exit(2 if any(line.status == "red" for line in lines) else 0)


@app.command()
def plan(
    recipe: RecipePath,
    device: Annotated[str | None, typer.Option(help='A device to plan for, as "RTX 4090"; this machine without it.')] = None,
    memory: Annotated[str | None, typer.Option(help="Memory to plan for, as 24GB.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Run two steps on this machine and compare; later plans are corrected by it.")] = False,
    as_json: Json = False,
) -> None:
    """Say what training takes in memory, term by term, whether it fits, and the cheapest change that makes it fit.

    Example: planish plan recipe.yaml --device "RTX 4090"
    """
    from dataclasses import asdict

    from planish import plan as planning
    from planish.recipe import Recipe

    if measure:
        probed = planning.measure(Recipe.load(recipe), planning.machine(device, memory))
        typer.echo(json.dumps([asdict(one) for one in probed], indent=1) if as_json else planning.probed_text(probed))
        return
    planned = planning.plan(Recipe.load(recipe), planning.machine(device, memory))
    typer.echo(json.dumps(planning.as_json(planned), indent=1) if as_json else planning.text(planned))


@app.command()
def merge(
    config: Annotated[Path, typer.Argument(help="What to merge: a YAML file of ours, or mergekit's.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")] = Path("merged"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the parents and say what it would take; nothing is written.")] = False,
    as_json: Json = False,
) -> None:
    """Merge models or adapters of one base, tensor by tensor: soup, slerp, task_arithmetic, ties, dare, passthrough.

    Example: planish merge merge.yaml --out merged
    """
    from planish import merge as merging
    from planish.progress import Terminal

    spec, untranslated = merging.load(config)

    def made() -> merging.MergeForecast | merging.MergeReport:
        if dry_run:
            return merging.forecast(spec, config.parent)
        return merging.merge_models(spec, out, relative_to=config.parent, untranslated=untranslated, progress=Terminal())

    done = made()
    typer.echo(json.dumps(done.model_dump(mode="json"), indent=1) if as_json else merging.text(done))


@app.command()
def diagnose(
    run: Annotated[str, typer.Argument(help="A run's id, the beginning of one, last, or a metrics.jsonl.")] = "last",
    workspace: Workspace = HERE,
    as_json: Json = False,
) -> None:
    """Say in words what a training curve shows, with its evidence and the next action; a run that still trains too.

    Example: planish diagnose last
    """
    from planish import diagnose as doctor

    found = doctor.of(run, workspace)
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json.dumps(doctor.as_json(found), indent=1) if as_json else doctor.text(found, plain=plain))


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
