"""Running a recipe: one stage after the other, each skipped when nothing it depends on has changed, each result stored under its hash."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from planish import __version__
from planish.errors import InputError, PlanishError, Problem, RunFailed
from planish.events import STAGES, EventType, ReasonCode
from planish.progress import Progress, Silent
from planish.recipe import Recipe
from planish.rows import content_hash
from planish.stages._context import Context, Inputs, read_json
from planish.store import Store
from planish.store.objects import file_hash

EXAMPLES = {
    "train": "train: [{objective: sft}]",
    "compress": "compress: {export: [{gguf: {quant: Q4_K_M}}]}",
    "serve": "serve: {engine: llamacpp}",
    "observe": "observe: {every: 1d}",
    "feedback": "feedback: {corrections: corrections.jsonl}",
}
"""What asks for a stage, by the key that the recipe would have."""


@cache
def code_version() -> str:
    """The release and a hash of its source: part of every cache key, so that changed code makes its results anew, and stored with each run (R-6)."""
    root = Path(__file__).parent
    sources = {str(path.relative_to(root)): file_hash(path) for path in root.rglob("*.py")}
    return f"{__version__}+{content_hash(sources)[:12]}"


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage. `reason` says why it was skipped or failed."""

    stage: str
    status: Literal["done", "unchanged", "skipped", "failed"]
    folder: Path | None
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run. `exit_code` is 0, or 3 where a gate said no."""

    run_id: str
    exit_code: int
    stages: dict[str, StageOutcome]


def run(
    recipe: Recipe,
    *,
    workspace: Path = Path(".planish"),
    until: str = STAGES[-1],
    unproven: bool = False,
    progress: Progress | None = None,
    parent: str | None = None,
) -> RunOutcome:
    """Run the recipe up to and including the stage `until`.

    Behind a gate that said no, later stages are skipped, unless `unproven`: then they run on the tuned candidate and everything they make is marked UNPROVEN.
    The exit code is 3 either way. Raises InputError before anything ran, RunFailed when a stage failed; what was finished is kept and not made again.
    """
    progress = progress or Silent()
    store = Store(workspace)
    with store.held():
        if problems := refusals(recipe, store, until):
            raise InputError(*problems)
        swept = store.objects.sweep()
        for orphan in [row["id"] for row in store.runs() if row["status"] == "running"]:  # we hold the workspace, so whoever ran it is gone
            progress.say(f"{orphan} was interrupted: the stages that it finished are kept; half-written artifacts removed: {swept}")
            store.end_run(orphan, "interrupted", 137)
            store.event(orphan, EventType.RUN_INTERRUPTED, "run", {"found_by": "the next run"}, severity="error", reason_code=ReasonCode.INTERRUPTED)
        run_id = store.start_run(_name(recipe), recipe.model_dump(mode="json"), recipe.fingerprint, code_version(), parent or recipe.parent)
        store.event(run_id, EventType.RUN_STARTED, "run", {"recipe": recipe.fingerprint, "version": code_version(), "unproven": unproven})
        try:
            outcome = _stages(recipe, store, run_id, until, unproven, progress)
        except BaseException as failure:
            with suppress(RunFailed):  # records that cannot be written either: the next run will find this one interrupted
                _record_failure(store, run_id, failure)
            raise
        finally:
            store.close()
    return outcome


def refusals(recipe: Recipe, store: Store, until: str = STAGES[-1]) -> tuple[Problem, ...]:
    """Everything that can be known to be wrong before anything runs: missing rows, a model without a tokenizer, a port in use. All of it at once."""
    problems: list[Problem] = []
    for stage in STAGES[: STAGES.index(until) + 1]:
        if _asked(recipe, stage):
            module: Any = importlib.import_module(f"planish.stages.{stage}")
            absent = [name for name in module.NEEDS if not _asked(recipe, name)]
            problems += [
                Problem(stage, f"needs {name}, which this recipe does not ask for", f"add {name} to the recipe, or take {stage} out") for name in absent
            ]
            problems += _refusals(module.options, recipe)
            if hasattr(module, "preflight"):
                problems += _refusals(module.preflight, recipe, store)
    return tuple(dict.fromkeys(problems))


def _preflight_rows(recipe: Recipe, prepared: Path, until: str) -> None:
    """What the prepared rows show to be wrong, before a stage that computes for long. All of it at once."""
    problems: list[Problem] = []
    for stage in STAGES[: STAGES.index(until) + 1]:
        module: Any = importlib.import_module(f"planish.stages.{stage}") if _asked(recipe, stage) else None
        if hasattr(module, "preflight_rows"):
            problems += _refusals(module.preflight_rows, recipe, prepared)
    if problems:
        raise InputError(*dict.fromkeys(problems))


def _refusals(look: Callable[..., object], *given: object) -> tuple[Problem, ...]:
    """What `look` refuses, or nothing."""
    try:
        look(*given)
    except InputError as refused:
        return refused.problems
    return ()


def _stages(recipe: Recipe, store: Store, run_id: str, until: str, unproven: bool, progress: Progress) -> RunOutcome:
    outcomes: dict[str, StageOutcome] = {}
    refused = False
    for stage in STAGES[: STAGES.index(until) + 1]:
        if not _asked(recipe, stage):
            outcomes[stage] = _skip(store, run_id, stage, ReasonCode.NOT_ASKED)
        elif refused and not unproven:
            outcomes[stage] = _skip(store, run_id, stage, ReasonCode.GATE)
            progress.say(f"{stage}: skipped: gate")
        else:
            inputs = {name: done.folder for name, done in outcomes.items() if done.folder is not None}
            outcomes[stage] = _stage(Context(recipe, store, run_id, stage, Path(), progress, refused), inputs)
        if stage == "prepare" and (prepared := outcomes[stage].folder) is not None:
            _preflight_rows(recipe, prepared, until)
        if stage == "gate" and (folder := outcomes[stage].folder) is not None:
            refused = read_json(folder / "verdict.json")["decision"] != "ship"
        if stage == "compress" and (folder := outcomes[stage].folder) is not None:
            refused = refused or not read_json(folder / "compress_report.json")["passed"]
    exit_code = 3 if refused else 0
    store.end_run(run_id, "refused" if refused else "succeeded", exit_code)
    store.event(run_id, EventType.RUN_REFUSED if refused else EventType.RUN_SUCCEEDED, "run", {"exit_code": exit_code})
    return RunOutcome(run_id, exit_code, outcomes)


def _stage(context: Context, inputs: Inputs) -> StageOutcome:
    """One stage: taken from the store when its key is there, run otherwise."""
    store, run_id, stage, progress = context.store, context.run_id, context.stage, context.progress
    module: Any = importlib.import_module(f"planish.stages.{stage}")
    needed = {name: inputs[name] for name in module.NEEDS if name in inputs}
    parents = tuple(folder.name for folder in needed.values())
    # only what later stages make of a refused candidate bears the mark, so only there is it part of the key
    marked = context.unproven and STAGES.index(stage) > STAGES.index("gate")
    key = content_hash({"stage": stage, "version": code_version(), "options": module.options(context.recipe), "inputs": parents, "unproven": marked})
    known = store.made(key)
    if known is not None and getattr(module, "still_true", lambda *_: True)(context, store.path(known)):
        if hasattr(module, "agree"):
            module.agree(context.recipe, store.path(known))
        store.forget_work(key)  # of a process that ended between its result and this
        store.record_stage(run_id, stage, "unchanged", known, ReasonCode.UNCHANGED, 0.0)
        store.event(run_id, EventType.STAGE_SKIPPED, stage, {"artifact": known}, reason_code=ReasonCode.UNCHANGED)
        progress.say(f"{stage}: unchanged, nothing to do")
        return StageOutcome(stage, "unchanged", store.path(known), ReasonCode.UNCHANGED, 0.0)
    progress.say(f"{stage} …")
    store.event(run_id, EventType.STAGE_STARTED, stage, {"key": key, "inputs": list(parents)})
    began = time.perf_counter()
    within = Context(context.recipe, store, run_id, stage, store.work(key), progress, context.unproven)
    artifact = store.make(key, stage, stage, lambda folder: module.run(within, needed, folder), parents)
    seconds = time.perf_counter() - began
    store.record_stage(run_id, stage, "done", artifact, None, seconds)
    store.forget_work(key)
    store.event(run_id, EventType.STAGE_FINISHED, stage, {"artifact": artifact, "seconds": round(seconds, 3)})
    progress.say(f"{stage}: done in {seconds:.1f} s")
    return StageOutcome(stage, "done", store.path(artifact), None, seconds)


def refuse_unasked(recipe: Recipe, stage: str) -> None:
    """For a stage that was named by itself. Raises InputError where the recipe has nothing for it to do: a run that skips it would look like one that did it."""
    if not _asked(recipe, stage):
        key = stage if stage in EXAMPLES else "train"
        why = f"the recipe has none, so {stage} has nothing to do"
        raise InputError(Problem(f"{recipe.source or 'recipe'}: {key}", why, f"add one, as: {EXAMPLES[key]}"))


def _asked(recipe: Recipe, stage: str) -> bool:
    """Whether the recipe has anything for a stage to do."""
    optional: dict[str, Any] = {
        "train": recipe.train,
        "compress": recipe.compress,
        "serve": recipe.serve,
        "observe": recipe.observe,
        "feedback": recipe.feedback,
    }
    if stage in ("evaluate", "gate"):
        return bool(recipe.train)
    return stage not in optional or bool(optional[stage])


def _skip(store: Store, run_id: str, stage: str, reason: ReasonCode) -> StageOutcome:
    store.record_stage(run_id, stage, "skipped", None, reason, 0.0)
    store.event(run_id, EventType.STAGE_SKIPPED, stage, reason_code=reason)
    return StageOutcome(stage, "skipped", None, reason, 0.0)


def _record_failure(store: Store, run_id: str, failure: BaseException) -> None:
    """The run's last event says why, whatever it was; recording must not hide the failure itself."""
    code, status = ReasonCode.STAGE_FAILED, "failed"
    if isinstance(failure, KeyboardInterrupt):
        code, status = ReasonCode.INTERRUPTED, "interrupted"
    elif isinstance(failure, RunFailed) and failure.reason_code in set(ReasonCode):
        code = ReasonCode(failure.reason_code)
    elif isinstance(failure, PlanishError) and failure.exit_code == 2:
        code = ReasonCode.INPUT_WRONG
    exit_code = failure.exit_code if isinstance(failure, PlanishError) else 130 if status == "interrupted" else 1
    store.end_run(run_id, status, exit_code)
    ending = EventType.RUN_INTERRUPTED if status == "interrupted" else EventType.RUN_FAILED
    store.event(run_id, ending, "run", {"error": str(failure)[:4000], "kind": type(failure).__name__}, severity="error", reason_code=code)


def _name(recipe: Recipe) -> str:
    return recipe.source.stem if recipe.source is not None else recipe.model
