"""The gate: does the tuned model beat every cheaper system by more than noise, and has it kept what it knew?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish import rules
from planish.data.task import filled
from planish.events import EventType, ReasonCode
from planish.evidence import verdict
from planish.evidence.facts import ReportFacts
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages._context import Context, Inputs, read_json, read_reports, write_json
from planish.stages._forgetting import write_forgetting
from planish.stages._gold import read_gold
from planish.stages._losses import cuts, write_losses
from planish.stages._scoring import primary
from planish.stages._stage_report import controls, write_stage_report
from planish.stages.baseline import COST_ORDER
from planish.stages.evaluate import candidate_name

NEEDS = ("prepare", "baseline", "train", "evaluate")


def options(recipe: Recipe) -> dict[str, Any]:
    """The rules, and by which scorer systems are ranked."""
    return {
        "rules": recipe.gate,
        "scorers": [use.name for use in recipe.evaluate.scorers],
        "general": recipe.evaluate.general,
        "candidate": candidate_name(recipe),
    }


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`verdict.json`, `losses.json`, and where general ability was measured `forgetting.json`."""
    gold = read_gold(context.store, context.run_id, context.stage, inputs["prepare"])
    recipe = filled(context.recipe, gold.task.shape)
    baselines = list(read_reports(inputs["baseline"]).values())
    candidate = read_reports(inputs["evaluate"])[candidate_name(recipe)]
    general = [
        EvalReport.model_validate(read_json(inputs[stage] / "general.json")) for stage in ("evaluate", "baseline") if (inputs[stage] / "general.json").is_file()
    ]
    cut = cuts(gold, inputs["prepare"])
    rivals = [*baselines, *controls(inputs["evaluate"], candidate)]
    facts = ReportFacts([candidate, *general[:1]], rivals, general[1:], groups=gold.groups, cuts=cut)
    results = [rules.decide(rules.parse(rule), facts) for rule in recipe.gate or ()]
    metric = primary(recipe.evaluate.scorers)
    silent = [report.system for report in rivals if metric not in report.metrics]
    if silent:
        context.progress.say(f"  not compared on {metric}, which reads log-probabilities: {', '.join(silent)}")
    compared = [report for report in rivals if report.system not in silent]
    found = verdict.decide(
        candidate,
        compared,
        results,
        metric=metric,
        required=[solver.name for solver in recipe.baseline if solver.name not in silent],
        cheapest_first=COST_ORDER,
        groups=gold.groups,
    )
    found = found.model_copy(update={"systems": verdict.standings([candidate, *compared], metric, cuts=cut, groups=gold.groups)})
    write_json(folder / "verdict.json", found.model_dump(mode="json"))
    write_losses(gold, inputs["prepare"], candidate, compared, metric, folder)
    write_forgetting(context, inputs, folder, candidate, baselines, metric, general, gold.groups)
    write_stage_report(context, inputs["evaluate"], candidate, metric, general, gold.groups, folder)
    said = {"decision": found.decision, "ship": found.ship, "sentence": found.sentence}
    if found.decision == "ship":
        context.event(EventType.GATE_PASSED, said)
    else:
        context.event(EventType.GATE_REFUSED, said, severity="warning", reason_code=ReasonCode.GATE)
    context.progress.say(f"  {found.sentence}")
