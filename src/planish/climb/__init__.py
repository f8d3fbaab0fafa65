"""`planish climb`: the ladder rung by rung from the cheapest, on one gold set, up to the first that clears the goal (MISSION G2).

Every rung is a recipe of its own that goes through the pipeline, so that what was done before is not done again: a climb that was interrupted, or that is given a higher
goal, goes on where it stood. The goal is held against the full gold; a rung that cannot reach it is ruled out on fewer rows (`planish.evidence.screen`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish import pipeline, rules
from planish.advise import measured
from planish.advise.drafted import rule_of
from planish.data import dataset, hub
from planish.data.task import KINDS, filled, require_metric
from planish.errors import InputError, PlanishError, Problem, did_you_mean
from planish.evidence.guide import Answers, Facts, rungs
from planish.evidence.guide_rows import Rung
from planish.evidence.ladder import Ascent, Climb, Cost
from planish.evidence.verdict import MIN_GAIN
from planish.progress import Progress, Silent
from planish.recipe import Recipe
from planish.recipe_data import TaskShape
from planish.recipe_yaml import as_yaml
from planish.scores import EvalReport
from planish.stages._context import read_reports, write_json
from planish.store.objects import write_atomic

FLOOR = {"classification": "majority"}
"""The baseline that stands beside a tuned rung so that the base's general ability is measured; it costs nothing."""


@dataclass(frozen=True)
class Climbed:
    """The climb, the run of each rung by name, and the folder with `climb.json` and the recipe of what is to be shipped."""

    climb: Climb
    runs: dict[str, str]
    folder: Path
    exit_code: int


def climb(
    recipe: Recipe,
    goal: str,
    *,
    facts: Facts = Facts(),  # noqa: B008 (immutable)
    answers: Answers = Answers(),  # noqa: B008
    only: Sequence[str] | None = None,
    min_gain: float = MIN_GAIN,
    workspace: Path = Path(".planish"),
    progress: Progress | None = None,
) -> Climbed:
    """Climb until a rung clears `goal`, such as "macro_f1 >= 0.85". What the recipe says of data, model, scorers and general suites holds for every rung.

    `facts` and `answers` leave out rungs that make no sense here; `only` names the rungs to try. Raises InputError for an unknown metric or rung, and where
    there are too few gold rows; a rung that fails is recorded with its reason and the climb goes on.
    """
    progress = progress or Silent()
    prepared = pipeline.run(_alone(recipe), workspace=workspace, until="prepare", progress=progress).stages["prepare"].folder
    assert prepared is not None  # nothing gates prepare
    data = dataset.read(prepared)
    recipe = filled(recipe, data.task.shape)
    named = goal_of(goal, recipe, data.task.shape)
    way = _way(rungs(facts.model_copy(update={"task": data.task.shape}), answers), only)
    gold_rows, groups = _gold(data)
    ascent = Ascent(named, gold_rows, min_gain=min_gain, groups=groups)
    runs: dict[str, str] = {}
    folder = workspace / "climbs" / f"{prepared.name[:12]}-{recipe.fingerprint[:12]}"
    for place, rung in enumerate(way):
        progress.say(f"rung {place + 1} of {len(way)}: {rung.technique}, {rung.why}")
        try:
            one = rung_recipe(recipe, rung, named, data.task.shape)
            outcome = pipeline.run(one, workspace=workspace, until="evaluate" if rung.kind == "train" else "baseline", progress=progress)
            runs[rung.technique] = outcome.run_id
            report = _report(outcome, rung)
            _add(ascent, report.model_copy(update={"system": rung.technique}), _cost(outcome, rung, report))
        except PlanishError as failed:
            if failed.exit_code == 2 and not isinstance(failed, InputError):
                raise
            ascent.failed(rung.technique, "; ".join(problem.why for problem in failed.problems))
        last = ascent.rungs[-1]
        progress.say(f"  {last.name}: {last.outcome}: {last.why}")
        found = ascent.conclude([later.technique for later in way[place + 1 :]] if ascent.done else ())
        write_json(folder / "climb.json", found.model_dump(mode="json") | {"runs": runs})
        if ascent.done:
            break
    ship = next((rung for rung in way if rung.technique == found.ship), None)
    if ship is not None:
        write_atomic(folder / "recipe.yaml", as_yaml(_absolute(rung_recipe(recipe, ship, None, data.task.shape))).encode())
    return Climbed(found, runs, folder, 0 if found.decision == "ship" else 3)


def start(source: Path, *, model: str, task: TaskShape | None = None, gold: Path | None = None) -> tuple[Recipe, Facts]:
    """The recipe that a climb begins with, and what was measured of its rows: a file of rows, or a recipe whose data, model and scorers are kept.

    Raises InputError for a source that is neither."""
    if source.suffix in (".yaml", ".yml"):
        recipe = Recipe.load(source)
        return recipe, measured.rows(recipe.resolve(recipe.data.path), recipe.data.task).facts
    if not (hub.named(source) or source.exists()):
        raise InputError(Problem(str(source), "there is no such file", "give a file of rows, or a recipe"))
    data = {"path": hub.absolute(source)} | ({"task": task} if task else {}) | ({"gold": hub.absolute(gold)} if gold else {})
    return Recipe.model_validate({"recipe": 1, "model": model, "data": data}), measured.rows(source, task).facts


def goal_of(goal: str, recipe: Recipe, shape: str) -> str:
    """The goal with its scorer's name, as drafted. Raises InputError for a metric that is none of the task's, or of no scorer of the recipe."""
    rule = rule_of(goal, shape)
    metric, scorers = rules.parse(rule).metric, [use.name for use in recipe.evaluate.scorers]
    require_metric(shape, metric)
    if metric.partition(".")[0] not in scorers:
        raise InputError(Problem("goal", f"{metric} is measured by no scorer of this recipe", f"add the scorer {metric.partition('.')[0]} to evaluate.scorers"))
    return rule


def rung_recipe(recipe: Recipe, rung: Rung, goal: str | None, shape: str) -> Recipe:
    """The recipe of one rung. `goal` is what its rows are screened against; without it this is the recipe to go on with."""
    more: dict[str, Any] = {**rung.recipe}
    if rung.kind == "train":
        own = recipe.train[0].model_dump(mode="json", exclude_defaults=True) if recipe.train else {"epochs": 3}
        more["train"] = [own | entry for entry in rung.recipe["train"]]
        more["baseline"] = [FLOOR.get(shape, KINDS[shape].baselines[0])]
    update = Recipe.model_validate({"recipe": 1, "model": recipe.model, "data": {"path": "."}, **more})
    evaluate = recipe.evaluate.model_copy(update={"screen": goal} | ({} if rung.kind == "train" else {"general": []}))
    kept = {
        "train": update.train,
        "baseline": update.baseline,
        "evaluate": evaluate,
        "gate": None,
        "compress": None,
        "serve": None,
        "observe": None,
        "feedback": None,
    }
    if goal is None:
        kept |= {"compress": recipe.compress, "serve": recipe.serve, "observe": recipe.observe, "feedback": recipe.feedback}
    return recipe.model_copy(update=kept)


def _alone(recipe: Recipe) -> Recipe:
    """The recipe without anything behind its baselines."""
    return recipe.model_copy(update={name: None for name in ("compress", "serve", "observe", "feedback")} | {"train": []})


def _way(found: Sequence[Rung], only: Sequence[str] | None) -> list[Rung]:
    names = [rung.technique for rung in found]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise InputError(*(Problem("--rungs", f'there is no rung "{name}" here', did_you_mean(name, names)) for name in unknown))
    return [rung for rung in found if only is None or rung.technique in only]


def _gold(data: dataset.Dataset) -> tuple[int, dict[str, str] | None]:
    """How many gold rows there are, and the group of each. Their texts are not read here."""
    placed = dataset.assignment(data)
    groups = {row.id: row.group for row in dataset.every_row(data) if placed[row.id] == "gold" and row.group is not None}
    return data.manifest.counts["gold"], groups or None


def _report(outcome: pipeline.RunOutcome, rung: Rung) -> EvalReport:
    folder = outcome.stages["evaluate" if rung.kind == "train" else "baseline"].folder
    assert folder is not None
    return next(iter(read_reports(folder).values()))


def _add(ascent: Ascent, report: EvalReport, cost: Cost) -> None:
    ruled_out = report.details.get("screened")
    if ruled_out is None:
        ascent.add(report, cost)
    else:
        ascent.screened_out(report.system, report.metrics[ascent.goal.metric], ruled_out, cost)


def _cost(outcome: pipeline.RunOutcome, rung: Rung, report: EvalReport) -> Cost:
    """What the rung took. Seconds of training are those of the run that trained, kept with its curve: a rung that was done before cost no less."""
    rows = max(1, len(report.scores))
    found = Cost(seconds_per_answer=report.seconds / rows, tokens_per_answer=_tokens(report), undo=rung.undo)
    if rung.kind == "baseline":
        kept = outcome.stages["baseline"].folder
        assert kept is not None
        return found.model_copy(update={"artifact_bytes": _bytes(kept / rung.technique)})
    folder = outcome.stages["train"].folder
    assert folder is not None
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = sum((now["tokens"] - before["tokens"]) / now["tok_s"] for before, now in zip([{"tokens": 0}, *steps], steps, strict=False))
    stored = folder / "adapter" if (folder / "adapter").is_dir() else folder / "model"
    return found.model_copy(
        update={"train_seconds": seconds, "peak_bytes": round(max(step["memory_mb"] for step in steps) * 2**20), "artifact_bytes": _bytes(stored)}
    )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tokens(report: EvalReport) -> float | None:
    counted = [report.metrics.get(name) for name in ("cost.prompt_tokens", "cost.answer_tokens")]
    return sum(metric.value for metric in counted if metric is not None) if any(counted) else None


def _absolute(recipe: Recipe) -> Recipe:
    """The same with paths that hold wherever the file lies."""
    data = recipe.data.model_copy(
        update={name: hub.absolute(recipe.resolve(path)) for name in ("path", "gold") if (path := getattr(recipe.data, name)) is not None}
    )
    own = recipe.resolve(Path(recipe.model))
    return recipe.model_copy(update={"data": data, "model": str(own.absolute()) if own.is_dir() else recipe.model})
